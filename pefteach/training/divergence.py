"""Divergence: how a run ends whose loss is not finite, and the weights it ends with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pefteach.training.history import History
from pefteach.training.sharding import local


class TrainingDiverged(RuntimeError):
    """The loss or its gradient became NaN or infinite. The model has the weights of the last good step."""

    def __init__(self, step: int, loss: float, history: History):
        what = "the gradient was not finite" if math.isfinite(loss) else f"the loss was {loss}"
        super().__init__(f"{what} at step {step}; the weights of the step before it are kept (try a lower lr)")
        self.step, self.history = step, history


class LastGoodWeights:
    """A copy of the trained weights, kept on the CPU to save GPU memory."""

    def __init__(self, parameters: Sequence[Tensor]):
        self.parameters = parameters
        self.copies = [local(p).to("cpu", copy=True) for p in parameters]

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the weights that the model has now: their loss and gradient are finite."""
        torch._foreach_copy_(self.copies, [local(p) for p in self.parameters])

    @torch.no_grad()
    def restore(self) -> None:
        """Put the copy back into the model."""
        torch._foreach_copy_([local(p) for p in self.parameters], self.copies)
