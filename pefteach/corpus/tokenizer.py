"""The base's tokenizer: byte-level BPE, learned from the corpus itself."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pefteach.corpus.skills import NEW_SKILLS, SKILLS
from pefteach.paths import BASE

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
TASK_TOKENS = [f"<{skill}>" for skill in (*SKILLS, "examples", *NEW_SKILLS)]
SPECIAL = [PAD, BOS, EOS, *TASK_TOKENS]


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048) -> Tokenizer:
    """Learn the merges from ``texts``. Ids 0, 1 and 2 are padding, begin and end; then come the task tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@cache
def load_tokenizer(folder: Path = BASE) -> Tokenizer:
    """The tokenizer stored beside a base.

    Raises:
        FileNotFoundError: the folder has no ``tokenizer.json``.
    """
    file = Path(folder) / "tokenizer.json"
    if not file.exists():
        raise FileNotFoundError(f"no tokenizer at {file}")
    return Tokenizer.from_file(str(file))
