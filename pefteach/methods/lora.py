"""LoRA: a frozen weight plus a trained product of two thin matrices.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1:

    h = W0 x + s · B A x,    A: (r, in),  B: (out, r),  s = alpha / r

A starts random and B at zero, so the model starts as it was. rsLoRA (Kalajdzievski 2023) takes
s = alpha / √r, which keeps the size of the update steady as the rank grows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from pefteach.methods.core.adapter import Method
from pefteach.methods.core.low_rank import LowRankPart, checked_targets, contiguous_transpose
from pefteach.methods.core.parts_adapter import PartsAdapter
from pefteach.methods.core.targets import find_linear, plain_names
from pefteach.model.modules import linear_shape


class LoRAPart(LowRankPart):
    """A and B of one linear layer; adds s · B A x to the layer's output."""

    def __init__(self, layer: nn.Module, method: LoRA):
        super().__init__()
        fan_in, fan_out = linear_shape(layer)
        self.lora_A = nn.Linear(fan_in, method.rank, bias=False)  # only for the name: lora_A.weight, as in peft
        self.lora_B = nn.Linear(method.rank, fan_out, bias=False)
        self.scale, self.dropout = method.scale, method.dropout
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))  # as nn.Linear: U(-1/√in, 1/√in)
        nn.init.zeros_(self.lora_B.weight)

    def update(self, x: Tensor) -> Tensor:  # s · B A x: (..., in) -> (..., r) -> (..., out)
        A, B = self.lora_A.weight, self.lora_B.weight
        low = self.scale * (x.to(A.dtype) @ A.T)  # scaling r numbers costs less than scaling out
        return low @ contiguous_transpose(B)

    def delta_weight(self) -> Tensor:  # s · B A
        return self.scale * self.lora_B.weight @ self.lora_A.weight


@dataclass(frozen=True)
class LoRA(Method):
    """Settings of LoRA.

    Args:
        rank: r, at least 1 and at most min(in, out) of every target.
        alpha: the numerator of the scale s, above 0.
        target_modules: which linear layers; see :func:`pefteach.methods.core.targets.find_linear`.
        dropout: share of the inputs to A that is zeroed while training; the frozen layer gets them all.
        rslora: scale by alpha / √r.

    Raises:
        ValueError: when attached with a rank, alpha or dropout out of range, or an unknown target.
    """

    rank: int = 8
    alpha: float = 16.0
    target_modules: str | Sequence[str] = ("q_proj", "v_proj")
    dropout: float = 0.0
    rslora: bool = False

    formula: ClassVar[str] = "Σ r (in + out)"
    can_merge: ClassVar[bool] = True

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def trained_parameters(self, model: nn.Module) -> int:
        return sum(self.rank * sum(linear_shape(layer)) for layer in find_linear(model, self.target_modules).values())

    def build(self, model: nn.Module, name: str) -> PartsAdapter:
        layers = checked_targets(model, self.target_modules, self.rank, self.alpha, self.dropout)
        return PartsAdapter(self, model, name, {path: self.part(layer) for path, layer in layers.items()})

    def part(self, layer: nn.Module) -> LowRankPart:  # DoRA has another
        return LoRAPart(layer, self)

    # The settings in peft's files.
    peft_type: ClassVar[str] = "LORA"
    use_dora: ClassVar[bool] = False  # peft's files have DoRA as a kind of LoRA
    refused: ClassVar[tuple[str, ...]] = (
        "rank_pattern", "alpha_pattern", "lora_bias", "modules_to_save", "layers_to_transform",
    )  # fmt: skip

    def to_peft(self) -> dict:
        return {
            "peft_type": self.peft_type,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rslora,
            "use_dora": self.use_dora,
            "target_modules": plain_names(self.target_modules),
        }

    @classmethod
    def reads(cls, config: dict) -> bool:
        return super().reads(config) and bool(config.get("use_dora")) == cls.use_dora

    @classmethod
    def from_peft(cls, config: dict) -> LoRA:
        cls.refuse_settings(config)
        return cls(
            rank=config["r"],
            alpha=config["lora_alpha"],
            target_modules=config["target_modules"],
            dropout=config.get("lora_dropout", 0.0),
            rslora=config.get("use_rslora", False),
        )
