"""VeRA: LoRA whose matrices are random, frozen and shared by all layers; two vectors per layer train.

Kopiczko, Blankevoort & Asano 2024, "VeRA: Vector-based Random Matrix Adaptation", equation 2:

    h = W0 x + b ∘ B (d ∘ A x),    A: (r, in),  B: (out, r) frozen,  d: (r,),  b: (out,) trained

b starts at zero, so the model starts as it was. A and B are as large as the largest layer needs; a smaller one takes
their first columns and rows. A file may leave them out: the same seed draws them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pefteach.methods.core.adapter import Method, check_dropout
from pefteach.methods.core.low_rank import LowRankPart
from pefteach.methods.core.parts_adapter import PartsAdapter
from pefteach.methods.core.targets import find_linear
from pefteach.model.modules import linear_shape


class VeRAPart(LowRankPart):
    """d and b of one linear layer, beside the A and B of all layers."""

    frozen = ("vera_A", "vera_B")

    def __init__(self, layer: nn.Module, method: VeRA, A: Tensor, B: Tensor):
        super().__init__()
        self.fan_in, self.fan_out = linear_shape(layer)
        self.vera_A, self.vera_B, self.dropout = A, B, method.dropout
        self.vera_lambda_d = nn.Parameter(torch.full((method.rank,), method.d_initial))
        self.vera_lambda_b = nn.Parameter(torch.zeros(self.fan_out))

    def update(self, x: Tensor) -> Tensor:  # b ∘ B (d ∘ A x): (..., in) -> (..., r) -> (..., out)
        A, B = self.vera_A[:, : self.fan_in], self.vera_B[: self.fan_out]
        return self.vera_lambda_b * (self.vera_lambda_d * (x.to(A.dtype) @ A.T) @ B.T)

    def delta_weight(self) -> Tensor:  # diag(b) B diag(d) A
        A, B = self.vera_A[:, : self.fan_in], self.vera_B[: self.fan_out]
        return (self.vera_lambda_b[:, None] * B) @ (self.vera_lambda_d[:, None] * A)


@dataclass(frozen=True)
class VeRA(Method):
    """Settings of VeRA.

    Args:
        rank: r, at least 1. It costs little, so it can be much larger than LoRA's.
        target_modules: which linear layers; see :func:`pefteach.methods.core.targets.find_linear`.
        d_initial: the start value of every number of d.
        dropout: share of the inputs to A that is zeroed while training.
        seed: the seed of the random A and B.
        save_projection: whether a file holds A and B. Without them it is tiny, and relies on the seed.

    Raises:
        ValueError: when attached with a rank or dropout out of range, or an unknown target.
    """

    rank: int = 256
    target_modules: str | Sequence[str] = ("q_proj", "v_proj")
    d_initial: float = 0.1
    dropout: float = 0.0
    seed: int = 0
    save_projection: bool = True

    formula: ClassVar[str] = "Σ (r + out)"
    can_merge: ClassVar[bool] = True

    def trained_parameters(self, model: nn.Module) -> int:
        return sum(self.rank + linear_shape(layer)[1] for layer in find_linear(model, self.target_modules).values())

    def build(self, model: nn.Module, name: str) -> VeRAAdapter:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, not {self.rank}")
        check_dropout(self.dropout)
        layers = find_linear(model, self.target_modules)
        fan_in, fan_out = (max(sizes) for sizes in zip(*map(linear_shape, layers.values())))
        rng = torch.Generator().manual_seed(self.seed)
        draw = lambda *shape: nn.init.kaiming_uniform_(nn.Parameter(torch.empty(shape), False), generator=rng)
        A, B = draw(self.rank, fan_in), draw(fan_out, self.rank)
        return VeRAAdapter(self, model, name, {path: VeRAPart(layer, self, A, B) for path, layer in layers.items()})

    # The settings in peft's files.
    peft_type: ClassVar[str] = "VERA"
    peft_names: ClassVar[dict[str, str]] = {"rank": "r", "dropout": "vera_dropout", "seed": "projection_prng_key"}
    refused: ClassVar[tuple[str, ...]] = ("layers_to_transform", "modules_to_save")


class VeRAAdapter(PartsAdapter):
    """Stores d and b of every layer, and A and B once."""

    def file_tensors(self) -> dict[str, Tensor]:
        part: Any = next(iter(self.parts.values()))
        matrices = {f"base_model.{name}": getattr(part, name) for name in part.frozen}
        return {**self.trained_tensors(), **(matrices if self.method.save_projection else {})}  # type: ignore[attr-defined]
