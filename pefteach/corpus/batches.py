"""Turn text into tensors, and mark the tokens that count towards the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from pefteach.corpus.tokenizer import BOS, EOS, PAD

IGNORE = -100  # the label that cross entropy skips


@dataclass(frozen=True)
class Example:
    """Token ids and, for each of them, whether it counts towards the loss."""

    ids: tuple[int, ...]
    counts: tuple[bool, ...]


def encode(tokenizer: Tokenizer, prompt: str, completion: str, end: bool = True) -> Example:
    """``<bos> prompt completion <eos>``; only the completion and its end count. ``end=False`` leaves the end off."""
    before = [tokenizer.token_to_id(BOS), *tokenizer.encode(prompt).ids]
    after = [*tokenizer.encode(completion).ids, *[tokenizer.token_to_id(EOS)] * end]
    return Example((*before, *after), (False,) * len(before) + (True,) * len(after))


def collate(examples: Sequence[Example], pad_token_id: int = 0, side: str = "right") -> dict[str, Tensor]:
    """Stack examples of unequal length: ``input_ids``, ``attention_mask``, ``labels``, each (B, T).

    ``labels[b, t]`` is the token at t itself (the loss shifts by one), or -100 where it does not count.

    Raises:
        ValueError: no examples.
    """
    if not examples:
        raise ValueError("the data set is empty: there is nothing to put in a batch")
    width = max(len(e.ids) for e in examples)
    ids = torch.full((len(examples), width), pad_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for row, e in enumerate(examples):
        n = len(e.ids)
        span = slice(0, n) if side == "right" else slice(width - n, width)
        ids[row, span], mask[row, span] = torch.tensor(e.ids), 1
        labels[row, span] = torch.tensor([i if c else IGNORE for i, c in zip(e.ids, e.counts, strict=True)])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def prompts(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Tensor]:
    """Prompts to continue, padded on the left: ``input_ids`` and ``attention_mask``, each (B, T)."""
    bos, pad = tokenizer.token_to_id(BOS), tokenizer.token_to_id(PAD)
    rows = [[bos, *tokenizer.encode(text).ids] for text in texts]
    batch = collate([Example(tuple(r), (False,) * len(r)) for r in rows], pad, side="left")
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
