"""LoRA: a frozen weight plus a trained product of two thin matrices.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1:

    h = W0 x + s · B A x,    A: (r, in),  B: (out, r),  s = alpha / r

A starts random and B at zero, so the model starts as it was. rsLoRA (Kalajdzievski 2023) takes
s = alpha / √r, which keeps the size of the update steady as the rank grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from pefteach.methods.method import Method, Part, PartsAdapter, check_dropout
from pefteach.methods.targets import find_linear, linear_shape, plain_names


@dataclass(frozen=True)
class LoRA(Method):
    """Settings of LoRA.

    Args:
        rank: r, at least 1 and at most min(in, out) of every target.
        alpha: the numerator of the scale s, above 0.
        target_modules: which linear layers; see :func:`pefteach.methods.targets.find_linear`.
        dropout: share of the inputs to A that is zeroed while training; the frozen path sees all of them.
        rslora: scale by alpha / √r.

    Raises:
        ValueError: when attached with a rank, alpha or dropout out of range, or an unknown target.
    """

    rank: int = 8
    alpha: float = 16.0
    target_modules: str | Sequence[str] = ("q_proj", "v_proj")
    dropout: float = 0.0
    rslora: bool = False

    peft_type: ClassVar[str] = "LORA"
    formula: ClassVar[str] = "Σ r (in + out)"
    can_merge: ClassVar[bool] = True
    use_dora: ClassVar[bool] = False  # peft's files have DoRA as a kind of LoRA

    def trained_parameters(self, model: nn.Module) -> int:
        return sum(self.rank * sum(linear_shape(layer)) for layer in find_linear(model, self.target_modules).values())

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def build(self, model: nn.Module, name: str) -> PartsAdapter:
        layers = low_rank_layers(model, self.target_modules, self.rank, self.alpha, self.dropout)
        return PartsAdapter(self, model, name, {path: self.part(layer) for path, layer in layers.items()})

    def part(self, layer: nn.Module) -> LowRankPart:
        return LoRAPart(layer, self)

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
        for setting in ("rank_pattern", "alpha_pattern", "lora_bias", "modules_to_save", "layers_to_transform"):
            if config.get(setting):
                raise ValueError(f"this file's LoRA has {setting} = {config[setting]!r}, which is not implemented here")
        return cls(
            rank=config["r"],
            alpha=config["lora_alpha"],
            target_modules=config["target_modules"],
            dropout=config.get("lora_dropout", 0.0),
            rslora=config.get("use_rslora", False),
        )


def low_rank_layers(
    model: nn.Module, target_modules: str | Sequence[str], rank: int, alpha: float, dropout: float
) -> dict[str, nn.Module]:
    """The layers by path, once the settings are in range; LoRA's relatives have the same."""
    if alpha <= 0:
        raise ValueError(f"alpha must be above 0, not {alpha}")
    check_dropout(dropout)
    layers = find_linear(model, target_modules)
    for path, layer in layers.items():
        limit = min(linear_shape(layer))
        if not 1 <= rank <= limit:
            raise ValueError(f"rank must be between 1 and {limit} for {path} {linear_shape(layer)}, not {rank}")
    return layers


class LowRankPart(Part):
    """Adds ΔW x to a linear layer, with ΔW a product of thin matrices: what LoRA and its relatives share."""

    combines: ClassVar[str | None] = "adds"
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


class LoRAPart(LowRankPart):
    """The two thin matrices beside one linear layer. They stay in float32 whatever the base's precision."""

    def __init__(self, layer: nn.Module, method: LoRA):
        super().__init__()
        fan_in, fan_out = linear_shape(layer)
        self.lora_A = nn.Linear(fan_in, method.rank, bias=False)
        self.lora_B = nn.Linear(method.rank, fan_out, bias=False)
        self.scale, self.dropout = method.scale, method.dropout
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))  # U(-1/√in, 1/√in)
        nn.init.zeros_(self.lora_B.weight)

    def update(self, x: Tensor) -> Tensor:  # s · B A x
        low = self.lora_A(x.to(self.lora_A.weight.dtype))  # (..., r)
        # Scale the r numbers, not the out. B is laid out as (r, out), because autograd forms its gradient in the layout
        # that it was used in, and low.T @ g (r, out) is several times faster than g.T @ low (out, r).
        return (self.scale * low) @ self.lora_B.weight.T.contiguous()

    def delta_weight(self) -> Tensor:  # s · B A
        return self.scale * self.lora_B.weight @ self.lora_A.weight
