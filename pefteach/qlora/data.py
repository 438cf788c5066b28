"""From the lines of a file to rows of tokens: which are trained on, which are held out, and which are too long."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefteach.corpus.batches import Example
from pefteach.qlora.instructions import Instruction, encode_instruction, read_instructions
from pefteach.qlora.packing import pack
from pefteach.qlora.settings import Settings


@dataclass(frozen=True)
class Part:
    """Lines of the data, and each of them in tokens."""

    lines: list[Instruction]
    examples: list[Example]


def read(settings: Settings) -> tuple[list[Instruction], list[Instruction]]:
    """Read the lines to train on and the lines held out: those of ``eval_data``, or a random share of ``data``.

    Raises:
        FileNotFoundError, ValueError: see :func:`pefteach.qlora.instructions.read_instructions`; or a single line.
    """
    lines = read_instructions(Path(settings.data))
    if settings.eval_data:
        return lines, read_instructions(Path(settings.eval_data))
    if len(lines) < 2:
        raise ValueError(f"{settings.data} has one line: give others to evaluate on with --eval-data")
    random.Random(settings.seed).shuffle(lines)
    count = min(max(1, round(settings.eval_share * len(lines))), len(lines) - 1)
    return lines[count:], lines[:count]


def encode_lines(tokenizer: Any, lines: list[Instruction], length: int, say: Callable[[str], None]) -> Part:
    """Encode the lines of at most ``length`` tokens; ``say`` how many were longer, and so are left out.

    Raises:
        ValueError: all are longer.
    """
    encoded = [(line, encode_instruction(tokenizer, line)) for line in lines]
    fitting = [(line, example) for line, example in encoded if len(example.ids) <= length]
    if not fitting:
        raise ValueError(f"no example has at most {length} tokens: raise --length")
    if long := sorted(line.line for line, example in encoded if len(example.ids) > length):
        say(f"Note: left out {len(long)} examples of more than {length} tokens, the first in line {long[0]}.")
    return Part([line for line, _ in fitting], [example for _, example in fitting])


def rows_of(examples: list[Example], settings: Settings) -> list[list[Example]]:
    """The examples of each row: several if they are packed, else one.

    Raises:
        ValueError: fewer rows than a batch has.
    """
    rows = pack(examples, settings.length) if settings.packing else [[example] for example in examples]
    if len(rows) < settings.batch_size:
        raise ValueError(f"{settings.data} fills {len(rows)} rows, less than a batch: lower --batch-size or --length")
    return rows
