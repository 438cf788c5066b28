"""Instruction data: a JSONL file with a prompt and a response per line.

    {"prompt": "Name a colour of the sky.", "response": "Blue."}

The model learns the response; the prompt is its context.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefteach.corpus.batches import Example

SHOWN = 5  # bad lines that an error lists


@dataclass(frozen=True)
class Instruction:
    """One line of the file; ``line`` is its number, from 1."""

    line: int
    prompt: str
    response: str


def read_instructions(file: Path) -> list[Instruction]:
    """Read the lines of a JSONL file; blank ones are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: bad lines, each with its number and what is wrong with it, or no lines at all.
    """
    found: list[Instruction] = []
    bad: list[str] = []
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    for number, line in enumerate(Path(file).read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(_instruction(number, line))
        except ValueError as error:
            bad.append(f"line {number}: {error}")
    if bad:
        more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise ValueError(f"{file} has bad lines. {'; '.join(bad[:SHOWN])}{more}")
    if not found:
        raise ValueError(f'{file} has no lines: each should be like {{"prompt": "…", "response": "…"}}')
    return found


def _instruction(number: int, line: bytes) -> Instruction:
    try:
        entry = json.loads(line.decode("utf-8-sig"))  # some editors begin a file with a mark
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    if not isinstance(entry, dict):
        raise ValueError(f"it is a {type(entry).__name__}, not an object with a prompt and a response")
    for key in ("prompt", "response"):
        if key not in entry:
            raise ValueError(f"it has no {key!r}, only {', '.join(map(repr, entry)) or 'nothing'}")
        if not isinstance(entry[key], str):
            raise ValueError(f"its {key} is a {type(entry[key]).__name__}, not text")
        if any("\ud800" <= character <= "\udfff" for character in entry[key]):
            raise ValueError(f"its {key} has half a character (a lone surrogate such as \\ud800)")
    if not entry["response"].strip():
        raise ValueError("its response is empty, so there is nothing to learn")
    return Instruction(number, entry["prompt"], entry["response"])


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of the prompt: in the tokenizer's chat template if it has one, else ``<bos> prompt``."""
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": prompt}]
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return start + tokenizer.encode(prompt, add_special_tokens=False)


def encode_instruction(tokenizer: Any, instruction: Instruction) -> Example:
    """Encode prompt, response and end of text as one example, in which response and end count.

    Args:
        tokenizer: transformers'.

    Raises:
        ValueError: a tokenizer without an end-of-text token, without which a model never learns to stop; or nothing
            that the response could follow.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("this tokenizer has no eos_token, so the model could not learn where a response ends")
    before = prompt_ids(tokenizer, instruction.prompt)
    if not before:
        raise ValueError(f"line {instruction.line}: an empty prompt needs a tokenizer with a bos_token to begin with")
    after = [*tokenizer.encode(instruction.response, add_special_tokens=False), tokenizer.eos_token_id]
    return Example((*before, *after), (False,) * len(before) + (True,) * len(after))
