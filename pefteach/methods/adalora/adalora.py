"""AdaLoRA: LoRA that moves rank during training to the layers where it matters most.

Zhang et al. 2023, "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning":

    h = W0 x + s · P Λ Q x,    P: (out, r),  Λ: diagonal, (r,),  Q: (r, in),  s = alpha / r

P Λ Q is shaped like a singular value decomposition. A triplet (a column of P, an entry of Λ, a row of Q) is dropped by
setting its entry of Λ to zero. ``training.py`` chooses which, by the scores that ``importance.py`` gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pefteach.methods.adalora.importance import Importance
from pefteach.methods.adalora.training import AdaLoRAAdapter
from pefteach.methods.core.adapter import Method
from pefteach.methods.core.low_rank import LowRankPart, checked_targets, contiguous_transpose
from pefteach.methods.core.targets import find_linear, plain_names
from pefteach.model.modules import linear_shape

PEFT_NAMES = {  # our setting: peft's
    "initial_rank": "init_r", "target_rank": "target_r", "alpha": "lora_alpha", "dropout": "lora_dropout",
    "target_modules": "target_modules", "interval": "deltaT", "beta1": "beta1", "beta2": "beta2",
    "orthogonality": "orth_reg_weight", "rank_pattern": "rank_pattern",
}  # fmt: skip


class AdaLoRAPart(LowRankPart):
    """P, Λ and Q of one linear layer, under peft's names. They stay in float32 whatever the base's precision."""

    importance: Importance
    kept: Tensor  # (r,), which triplets are not dropped at present

    def __init__(self, layer: nn.Module, method: AdaLoRA, rank: int):
        super().__init__()
        fan_in, fan_out = linear_shape(layer)
        self.scale, self.dropout = method.alpha / (method.initial_rank + 1e-5), method.dropout  # the 1e-5 is peft's
        self.lora_A = nn.Parameter(torch.randn(rank, fan_in) * 0.02)  # Q
        self.lora_B = nn.Parameter(torch.randn(fan_out, rank) * 0.02)  # P
        self.lora_E = nn.Parameter(torch.zeros(rank, 1))  # Λ
        self.importance = Importance(*self.matrices)
        self.register_buffer("kept", torch.ones(rank, dtype=torch.bool))

    @property
    def matrices(self) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:  # Q, P, Λ
        return self.lora_A, self.lora_B, self.lora_E

    def update(self, x: Tensor) -> Tensor:  # s · P Λ Q x
        low = F.linear(x.to(self.lora_A.dtype), self.scale * self.lora_E * self.lora_A)  # (..., r)
        return low @ contiguous_transpose(self.lora_B)

    def delta_weight(self) -> Tensor:  # s · P Λ Q
        return self.scale * self.lora_B @ (self.lora_E * self.lora_A)


@dataclass(frozen=True)
class AdaLoRA(Method):
    """Settings of AdaLoRA. Its schedule is as long as the training; ``fit`` passes the number of steps.

    Args:
        initial_rank: r of every layer at the start, at most min(in, out).
        target_rank: the rank that is left per layer at the end, on average.
        alpha: the numerator of the scale s, above 0. The scale stays alpha / initial_rank, whatever is dropped.
        target_modules: which linear layers; see :func:`pefteach.methods.core.targets.find_linear`.
        dropout: share of the inputs to Q that is zeroed while training.
        warmup, final: the shares of the steps in the first and the last phase; peft's tinit and tfinal, in steps.
        interval: steps from one choice to the next; peft's deltaT.
        beta1, beta2: how slowly sensitivity and uncertainty change.
        orthogonality: γ, the weight of the penalty in the loss; peft's orth_reg_weight.
        rank_pattern: which initial triplets a pruned adapter has kept, by the name of their Λ; comes from a file.

    Raises:
        ValueError: when attached with a setting out of range, or an unknown target.
    """

    initial_rank: int = 12
    target_rank: int = 8
    alpha: float = 32.0
    target_modules: str | Sequence[str] = ("q_proj", "v_proj")
    dropout: float = 0.0
    warmup: float = 0.1
    final: float = 0.3
    interval: int = 1
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality: float = 0.5
    rank_pattern: Mapping[str, Sequence[bool]] | None = None

    formula: ClassVar[str] = "Σ r (in + out + 1), r the initial rank"
    can_merge: ClassVar[bool] = True

    def trained_parameters(self, model: nn.Module) -> int:
        layers = find_linear(model, self.target_modules).items()
        return sum(sum(self.kept_at_start(path)) * (sum(linear_shape(layer)) + 1) for path, layer in layers)

    def kept_at_start(self, path: str) -> Sequence[bool]:
        """Which of a layer's initial triplets the adapter has when it is attached: all, unless a file says fewer."""
        return (self.rank_pattern or {}).get(f"{path}.lora_E", [True] * self.initial_rank)

    def phases(self, steps: int) -> tuple[int, int]:
        """(last step with the full budget, step of the last choice) in a training of so many steps."""
        end = max(1, min(steps - round(self.final * steps), steps - 1))  # there is always a last choice
        return min(round(self.warmup * steps), end - 1), end  # a short training rounds, but start stays below end

    def build(self, model: nn.Module, name: str) -> AdaLoRAAdapter:
        if not 1 <= self.target_rank <= self.initial_rank:
            raise ValueError(
                f"target_rank must be between 1 and initial_rank {self.initial_rank}, not {self.target_rank}"
            )
        if self.warmup < 0 or self.final < 0 or self.warmup + self.final >= 1:
            raise ValueError(
                f"warmup {self.warmup} and final {self.final} are shares of the training and must add up to less than 1"
            )
        if self.interval < 1:
            raise ValueError(f"interval must be at least 1 step, not {self.interval}")
        if not (0 < self.beta1 < 1 and 0 < self.beta2 < 1):
            raise ValueError(f"beta1 and beta2 must be above 0 and below 1, not {self.beta1} and {self.beta2}")
        if self.orthogonality < 0:
            raise ValueError(f"orthogonality must be at least 0, not {self.orthogonality}")
        layers = checked_targets(model, self.target_modules, self.initial_rank, self.alpha, self.dropout)
        parts = {path: AdaLoRAPart(layer, self, sum(self.kept_at_start(path))) for path, layer in layers.items()}
        return AdaLoRAAdapter(self, model, name, parts)

    # The settings in peft's files.
    peft_type: ClassVar[str] = "ADALORA"

    def to_peft(self, steps: int = 1000) -> dict:
        """peft counts the schedule in steps, so a file needs their number: 1000 until there was a training."""
        start, end = self.phases(steps)
        return {
            "peft_type": self.peft_type,
            **{theirs: getattr(self, ours) for ours, theirs in PEFT_NAMES.items()},
            "target_modules": plain_names(self.target_modules),
            "tinit": start,
            "tfinal": steps - end,
            "total_step": steps,
        }

    @classmethod
    def from_peft(cls, config: dict) -> AdaLoRA:
        steps = config["total_step"]
        settings = {ours: config[theirs] for ours, theirs in PEFT_NAMES.items() if theirs in config}
        return cls(warmup=config.get("tinit", 0) / steps, final=config.get("tfinal", 0) / steps, **settings)
