"""Base class of LoRA and its relatives: ΔW x beside a frozen linear layer, with ΔW a product of thin matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from pefteach.methods.core.adapter import check_dropout
from pefteach.methods.core.targets import find_linear
from pefteach.methods.core.wrapping import Part
from pefteach.model.modules import linear_shape


class LowRankPart(Part):
    """Adds ΔW x to a linear layer. Its tensors are made in float32, whatever the base's precision."""

    composes_as: ClassVar[str | None] = "adds"
    dropout: float

    def forward(self, call: Callable, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        y = call(x)
        return y + self.update(F.dropout(x, self.dropout, self.training)).to(y.dtype)

    def update(self, x: Tensor) -> Tensor:
        """ΔW x, in the precision of the thin matrices."""
        raise NotImplementedError

    def delta_weight(self) -> Tensor:
        """ΔW, (out, in)."""
        raise NotImplementedError

    def merged_weight(self, layer: Any) -> Tensor:
        delta = self.delta_weight()
        delta = delta if isinstance(layer, nn.Linear) else delta.T  # Conv1D stores (in, out)
        return (layer.weight + delta).to(layer.weight.dtype)


def contiguous_transpose(B: Tensor) -> Tensor:
    """Bᵀ of a tall B (out, r), as a contiguous copy (r, out).

    A product with it gives the same as one with the view ``B.T``, but its backward pass, which forms the gradient of B,
    is several times faster.
    """
    return B.T.contiguous()


def checked_targets(
    model: nn.Module, target_modules: str | Sequence[str], rank: int, alpha: float, dropout: float
) -> dict[str, nn.Module]:
    """Check the settings, and return the linear layers to adapt, by path.

    Raises:
        ValueError: a rank, alpha or dropout out of range, or an unknown target.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be above 0, not {alpha}")
    check_dropout(dropout)
    layers = find_linear(model, target_modules)
    for path, layer in layers.items():
        limit = min(linear_shape(layer))
        if not 1 <= rank <= limit:
            raise ValueError(f"rank must be between 1 and {limit} for {path} {linear_shape(layer)}, not {rank}")
    return layers
