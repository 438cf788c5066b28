"""Open the base that ships with the course."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tokenizers import Tokenizer

from pefteach.corpus.tokenizer import load_tokenizer
from pefteach.model.decoder import Decoder
from pefteach.paths import BASE


def check_base(folder: Path = BASE) -> None:
    """Compare every file of a base with ``SHA256SUMS``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not what it was when the base was made.
    """
    sums = Path(folder) / "SHA256SUMS"
    if not sums.exists():
        raise FileNotFoundError(
            f"no base at {folder}: clone the whole repository, or make one with `pefteach pretrain`"
        )
    for line in sums.read_text().splitlines():
        expected, name = line.split("  ")
        file = sums.parent / name
        if not file.exists():
            raise FileNotFoundError(
                f"{file} is missing: restore it with `git checkout {name}`, or install pefteach again"
            )
        if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise ValueError(
                f"{file} is damaged or was changed: restore it with `git checkout {name}`, or install pefteach again"
            )


def load_base(folder: Path = BASE) -> tuple[Decoder, Tokenizer]:
    """The pretrained decoder, in evaluation mode, and its tokenizer, after checking both files.

    Raises:
        FileNotFoundError, ValueError: as :func:`check_base`.
    """
    check_base(folder)
    return Decoder.from_pretrained(folder), load_tokenizer(folder)
