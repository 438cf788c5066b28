"""Scores and budget of AdaLoRA: how important each triplet is, and how many may stay.

A triplet is a column of P, its entry λ of Λ and a row of Q. The code calls Λ ``E``, as peft does.
Zhang et al. 2023, sections 3.2 and 3.3. After every step, with I = |w · ∂L/∂w| for every trained number w:

    Ī ← β₁ Ī + (1 - β₁) I          the sensitivity, smoothed
    Ū ← β₂ Ū + (1 - β₂) |I - Ī|    how uncertain it is
    score of a triplet = Ī Ū of its λ + the mean of Ī Ū over its column of P + the mean over its row of Q
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Importance(nn.Module):
    """Sensitivity Ī and uncertainty Ū of every number of Q (r, in), P (out, r) and E (r, 1).

    They are buffers, so that a checkpoint of the training keeps them.
    """

    def __init__(self, Q: Tensor, P: Tensor, E: Tensor):
        super().__init__()
        for name, w in zip("QPE", (Q, P, E)):
            self.register_buffer(f"sensitivity_{name}", torch.zeros_like(w))
            self.register_buffer(f"uncertainty_{name}", torch.zeros_like(w))

    def follow(self, Q: nn.Parameter, P: nn.Parameter, E: nn.Parameter, beta1: float, beta2: float) -> None:
        """Update both from the gradients of the step just taken. Call it under ``torch.no_grad()``."""
        for name, w in zip("QPE", (Q, P, E)):
            now = (w * w.grad).abs()  # I
            sensitivity, uncertainty = getattr(self, f"sensitivity_{name}"), getattr(self, f"uncertainty_{name}")
            sensitivity.mul_(beta1).add_(now, alpha=1 - beta1)
            uncertainty.mul_(beta2).add_((now - sensitivity).abs(), alpha=1 - beta2)

    def scores(self) -> Tensor:
        """The score of every triplet, (r,)."""
        Q = self.sensitivity_Q * self.uncertainty_Q
        P = self.sensitivity_P * self.uncertainty_P
        E = self.sensitivity_E * self.uncertainty_E
        return E[:, 0] + (P.mean(0) + Q.mean(1))  # in peft's order, so that it rounds the same


def budget(step: int, start: int, end: int, first: int, last: int) -> int:
    """b(t): ``first`` triplets up to step ``start``, then along a cubic curve to ``last`` at step ``end``."""
    to_go = min(1.0, max(0.0, 1 - (step - start) / (end - start)))
    return int((first - last) * to_go**3 + last)


def most_important(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """A mask (r,) per layer of the ``count`` highest scores of all layers together.

    If scores tie at the border, none of them stays, as in peft.
    """
    together = torch.cat(list(scores))
    surplus = len(together) - count
    if surplus <= 0:
        return [torch.ones_like(layer, dtype=torch.bool) for layer in scores]
    highest_to_go = together.kthvalue(surplus).values
    return [layer > highest_to_go for layer in scores]
