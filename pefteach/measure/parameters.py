"""How many numbers a model has, and how many of them train."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn

# The first pattern that fits a parameter's name says what it is for. They fit Llama's, GPT-2's and BERT's names.
KINDS = {
    "added": r"\.parts\.",  # by an adapter
    "embeddings": r"embed|wte|wpe|lm_head",
    "norms": r"norm|ln_",
    "attention": r"attn|attention",
    "feed-forward": r"mlp|intermediate|output",
}


@dataclass(frozen=True)
class Count:
    """Numbers of elements."""

    total: int
    trainable: int

    @property
    def share(self) -> float:
        """Trainable divided by total."""
        return self.trainable / self.total if self.total else 0.0


def count_parameters(model: nn.Module) -> Count:
    """All parameters and the ones that require gradients; a tensor with two names (a tied head) counts once."""
    sizes = [(_numbers(p), p.requires_grad) for p in model.parameters()]
    return Count(sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains))


def _numbers(parameter: nn.Parameter) -> int:
    """How many numbers a parameter holds: a byte of a weight in 4 bits holds two."""
    return parameter.numel() * (2 if parameter.dtype == torch.uint8 else 1)


def kind_of(name: str) -> str:
    """What the parameter of this name is for: a key of ``KINDS``, or "other"."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), "other")


def count_by_kind(model: nn.Module) -> dict[str, Count]:
    """The same counts for every kind of parameter in the model; they add up to :func:`count_parameters`."""
    counts: dict[str, Count] = {}
    for name, p in model.named_parameters():  # a tied tensor comes once, under its first name
        old = counts.get(kind_of(name), Count(0, 0))
        counts[kind_of(name)] = Count(old.total + _numbers(p), old.trainable + _numbers(p) * p.requires_grad)
    return counts
