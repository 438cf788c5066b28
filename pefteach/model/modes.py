"""Put a model in training or evaluation mode (no dropout) for the length of a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import nn


@contextmanager
def train_mode(model: nn.Module, training: bool = True) -> Iterator[None]:
    """Put the model in training mode, and afterwards back in the mode that it was in."""
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)


def eval_mode(model: nn.Module) -> AbstractContextManager[None]:
    """Put the model in evaluation mode, and afterwards back in the mode that it was in."""
    return train_mode(model, training=False)
