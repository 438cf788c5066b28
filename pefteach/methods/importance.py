"""What AdaLoRA's choice rests on: how important each triplet is, and how many may stay.

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
    """Sensitivity and uncertainty of the numbers of Q (r, in), P (out, r) and Λ (r, 1)."""

    def __init__(self, Q: Tensor, P: Tensor, E: Tensor):
        super().__init__()
        for name, w in zip("QPE", (Q, P, E)):
            self.register_buffer(f"sensitivity_{name}", torch.zeros_like(w))
            self.register_buffer(f"uncertainty_{name}", torch.zeros_like(w))

    def follow(self, Q: nn.Parameter, P: nn.Parameter, E: nn.Parameter, beta1: float, beta2: float) -> None:
        """Bring them up to date from the gradients of the step just taken."""
        for name, w in zip("QPE", (Q, P, E)):
            now = (w * w.grad).abs()
            sensitivity = getattr(self, f"sensitivity_{name}").mul_(beta1).add_(now, alpha=1 - beta1)
            away = now.sub_(sensitivity).abs_()
            getattr(self, f"uncertainty_{name}").mul_(beta2).add_(away, alpha=1 - beta2)

    def scores(self) -> Tensor:
        """The score of every triplet, (r,)."""
        Q = self.sensitivity_Q * self.uncertainty_Q
        P = self.sensitivity_P * self.uncertainty_P
        E = self.sensitivity_E * self.uncertainty_E
        return E[:, 0] + (P.mean(0) + Q.mean(1))


def budget(step: int, start: int, end: int, first: int, last: int) -> int:
    """b(t): ``first`` triplets up to step ``start``, then along a cubic curve to ``last`` at step ``end``."""
    left = min(1.0, max(0.0, 1 - (step - start) / (end - start)))
    return int((first - last) * left**3 + last)


def most_important(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Masks of the ``count`` highest scores of all layers together; of equal ones at the border, none."""
    everything = torch.cat(list(scores))
    surplus = len(everything) - count
    if surplus <= 0:
        return [torch.ones_like(score, dtype=torch.bool) for score in scores]
    return [score > everything.kthvalue(surplus).values for score in scores]
