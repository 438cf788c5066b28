"""DoRA: LoRA that trains the length of every weight row apart from the row's direction.

Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", equation 5 and section 4.3:

    W' = m · (W0 + s · B A) / n,    n = ‖W0 + s · B A‖,    m, n: (out,), one per row of W' (out, in)

m starts as the row norms of W0 and B at zero, so W' starts as W0. The gradient treats n as a constant (section 4.3).
The paper writes the norm "across each column" of a transposed weight; its code takes one per output, as here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pefteach.methods.core.targets import find_linear
from pefteach.methods.lora import LoRA, LoRAPart
from pefteach.model.modules import linear_shape


class DoRAPart(LoRAPart):
    """A, B and the row lengths m of one linear layer."""

    composes_as = None  # two DoRAs on one layer would both set the length of its rows

    def __init__(self, layer: Any, method: DoRA):
        super().__init__(layer, method)
        if not layer.weight.is_floating_point():
            raise ValueError(
                "DoRA needs the norms of a layer's rows, but the weight is packed in few bits: quantise with "
                "pefteach.quant.quantise(model), whose layers dequantise it, or attach LoRA"
            )
        self.layer: tuple[Any] = (layer,)  # in a tuple, so that torch does not register it as a submodule
        self.to(layer.weight.device)
        self.lora_magnitude_vector = nn.Parameter(self.direction().norm(dim=1))

    @torch.no_grad()
    def direction(self) -> Tensor:
        """W0 + s · B A, (out, in), without a gradient."""
        layer, A, B = self.layer[0], self.lora_A.weight, self.lora_B.weight
        weight = layer.weight if isinstance(layer, nn.Linear) else layer.weight.T  # Conv1D stores (in, out)
        return torch.addmm(weight.to(A.dtype), B, A, alpha=self.scale)

    def forward(self, call: Callable, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        if not (self.training and self.dropout):
            return self.resized(call(x), x)
        # With dropout, all that DoRA adds to the layer is computed from the dropped input, the rescaled W0 x included.
        dropped = F.dropout(x, self.dropout)
        y = call(dropped)
        return call(x) + (self.resized(y, dropped) - y)

    def resized(self, y: Tensor, x: Tensor) -> Tensor:
        """(m/n) · (W0 + s · B A) x + b, from y = W0 x + b."""
        g = self.lora_magnitude_vector / self.direction().norm(dim=1)
        z = y + self.update(x)
        b = self.layer[0].bias
        # (m/n) · (z - b) + b, written so that the bias costs nothing per token
        return (g * z if b is None else torch.addcmul((1 - g) * b, g, z)).to(y.dtype)

    def merged_weight(self, layer: Any) -> Tensor:
        direction = self.direction()
        weight = (self.lora_magnitude_vector / direction.norm(dim=1))[:, None] * direction
        return (weight if isinstance(layer, nn.Linear) else weight.T).to(layer.weight.dtype)


@dataclass(frozen=True)
class DoRA(LoRA):
    """Settings of DoRA: those of LoRA, with the same refusals."""

    formula: ClassVar[str] = "Σ r (in + out) + out"

    def trained_parameters(self, model: nn.Module) -> int:
        layers = find_linear(model, self.target_modules).values()
        return super().trained_parameters(model) + sum(linear_shape(layer)[1] for layer in layers)

    def part(self, layer: nn.Module) -> DoRAPart:
        return DoRAPart(layer, self)

    # The settings in peft's files.
    use_dora: ClassVar[bool] = True
