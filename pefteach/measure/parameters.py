"""The parameters of a model: how many there are, how many train, and what they are for."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn

# The first pattern that matches a parameter's name says what it is for. They match Llama's, GPT-2's and BERT's names.
KINDS = {
    "added": r"\.parts\.",  # by an adapter
    "embeddings": r"embed|wte|wpe|lm_head",
    "norms": r"norm|ln_",
    "attention": r"attn|attention",
    "feed-forward": r"mlp|intermediate|output",
}


@dataclass(frozen=True)
class Count:
    """How many numbers there are, and how many of them train."""

    total: int
    trainable: int

    @property
    def share(self) -> float:
        """The trainable ones divided by all; 0 for a model without parameters."""
        return self.trainable / self.total if self.total else 0.0


def count_parameters(model: nn.Module) -> Count:
    """Count all parameters and those that require gradients; a tensor with two names (a tied head) counts once."""
    sizes = [(_numbers(p), p.requires_grad) for p in model.parameters()]
    return Count(sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains))


def _numbers(parameter: nn.Parameter) -> int:
    """How many numbers a parameter holds: a byte of a weight in 4 bits holds two."""
    return parameter.numel() * (2 if parameter.dtype == torch.uint8 else 1)


def kind_of(name: str) -> str:
    """The kind of the parameter with this name: a key of ``KINDS``, or "other"."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), "other")


def count_by_kind(model: nn.Module) -> dict[str, Count]:
    """Count the parameters of each kind; the counts add up to :func:`count_parameters`."""
    counts: dict[str, Count] = {}
    for name, p in model.named_parameters():  # a tied tensor comes once, under its first name
        old = counts.get(kind_of(name), Count(0, 0))
        counts[kind_of(name)] = Count(old.total + _numbers(p), old.trainable + _numbers(p) * p.requires_grad)
    return counts
