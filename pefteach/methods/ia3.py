"""(IA)³: learned vectors that scale the keys, the values and the inside of the feed-forward network.

Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", section 3.3:

    softmax( Q (l_k ⊙ K)ᵀ / √d ) (l_v ⊙ V),    (l_ff ⊙ γ(W₁ x)) W₂

The name says it: Infused Adapter by Inhibiting and Amplifying Inner Activations. On linear layers this takes two forms:

    keys and values:     y = l ⊙ (W x + b),    l: (out, 1)
    second FFN matrix:   y = W (l ⊙ x) + b,    l: (1, in), where x is what the activation function gave

All vectors start at one, so the model starts as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pefteach.methods.core.adapter import Method
from pefteach.methods.core.parts_adapter import PartsAdapter
from pefteach.methods.core.targets import find_linear, plain_names
from pefteach.methods.core.wrapping import Part
from pefteach.model.modules import linear_shape


class IA3Part(Part):
    """One vector on one linear layer. It stays in float32 whatever the base's precision."""

    composes_as = "scales"

    def __init__(self, layer: nn.Module, feedforward: bool):
        super().__init__()
        fan_in, fan_out = linear_shape(layer)
        self.feedforward = feedforward
        self.ia3_l = nn.Parameter(torch.ones((1, fan_in) if feedforward else (fan_out, 1)))

    def forward(self, call: Callable, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        if self.feedforward:
            return call((x * self.ia3_l.flatten()).to(x.dtype))
        y = call(x)
        return (y * self.ia3_l.flatten()).to(y.dtype)  # the bias is scaled too

    def merged_weight(self, layer: Any) -> Tensor:
        # (out, 1) scales the rows of an (out, in) weight, (1, in) its columns. Conv1D stores (in, out).
        return layer.weight * (self.ia3_l if isinstance(layer, nn.Linear) else self.ia3_l.T)

    def merged_bias(self, layer: Any) -> Tensor:
        return layer.bias if self.feedforward else layer.bias * self.ia3_l.flatten()


@dataclass(frozen=True)
class IA3(Method):
    """Settings of (IA)³.

    Args:
        target_modules: all the linear layers that get a vector; see :func:`pefteach.methods.core.targets.find_linear`.
        feedforward_modules: those among them whose input is scaled instead of their output, named in the same way.

    Raises:
        ValueError: when attached with an unknown target, or with a feed-forward layer that is not a target.
    """

    target_modules: str | Sequence[str] = ("k_proj", "v_proj", "down_proj")
    feedforward_modules: str | Sequence[str] = ("down_proj",)

    formula: ClassVar[str] = "Σ out of the keys and values + Σ in of the feed-forward layers"
    can_merge: ClassVar[bool] = True
    allows_weight_decay: ClassVar[bool] = False  # it pulls to 0, but the neutral value of these scales is 1

    def feedforward(self, model: nn.Module) -> dict[str, bool]:
        """For every target, by path, whether its input is scaled instead of its output.

        Raises:
            ValueError: a feed-forward layer is not a target.
        """
        targets = find_linear(model, self.target_modules)
        inputs = find_linear(model, self.feedforward_modules) if self.feedforward_modules else {}
        if outside := sorted(inputs.keys() - targets.keys()):
            raise ValueError(
                f"feedforward_modules names {outside[0]}, but target_modules does not: name it in both, or in neither"
            )
        return {path: path in inputs for path in targets}

    def trained_parameters(self, model: nn.Module) -> int:
        layers = find_linear(model, self.target_modules)
        return sum(linear_shape(layers[path])[0 if ff else 1] for path, ff in self.feedforward(model).items())

    def build(self, model: nn.Module, name: str) -> PartsAdapter:
        layers = find_linear(model, self.target_modules)
        return PartsAdapter(
            self, model, name, {path: IA3Part(layers[path], ff) for path, ff in self.feedforward(model).items()}
        )

    # The settings in peft's files.
    peft_type: ClassVar[str] = "IA3"

    def to_peft(self) -> dict:
        return {
            "peft_type": self.peft_type,
            "target_modules": plain_names(self.target_modules),
            "feedforward_modules": plain_names(self.feedforward_modules),
        }

    @classmethod
    def from_peft(cls, config: dict) -> IA3:
        return cls(config["target_modules"], config["feedforward_modules"])
