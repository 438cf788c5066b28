"""Training of AdaLoRA: P and Q stay near orthogonal, and rank moves to the layers where it matters most.

Zhang et al. 2023, "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", sections 3.1 to 3.3. The loss
gets a penalty, and after a step some triplets may be dropped:

    γ · the mean over all layers of ‖PᵀP - I‖ and ‖QQᵀ - I‖,    P: (out, r),  Q: (r, in)
    Λ ← Λ where a triplet's score is among the b(t) highest of the whole model, else 0,    Λ: (r,)

``importance.py`` has the scores and the budget b(t). A training has three phases:

* warm-up: all triplets stay;
* shrinking budget: every choice drops some triplets, but their P and Q train on, so they may grow back before the next;
* final: the last choice holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pefteach.methods.adalora.importance import budget, most_important
from pefteach.methods.core.parts_adapter import PartsAdapter

if TYPE_CHECKING:  # for the types alone: that file imports this one
    from pefteach.methods.adalora import AdaLoRA, AdaLoRAPart


class AdaLoRAAdapter(PartsAdapter):
    """Chooses the triplets while training, and stores those that are left."""

    method: AdaLoRA
    parts: dict[str, AdaLoRAPart]
    steps = 1000  # of the last training, see AdaLoRA.to_peft

    def penalty(self) -> Tensor:
        """γ · the mean of all ‖PᵀP - I‖ and ‖QQᵀ - I‖, as in peft. The paper adds their squares."""
        gaps = []
        for part in self.parts.values():
            Q, P, E = part.matrices
            identity = torch.eye(len(E), dtype=E.dtype, device=E.device)
            gaps += [(Q @ Q.T - identity).norm(), (P.T @ P - identity).norm()]
        return self.method.orthogonality * torch.stack(gaps).mean()

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        self.steps = steps
        method, parts = self.method, list(self.parts.values())
        start, end = method.phases(steps)
        if step < end:
            for part in parts:
                part.importance.follow(*part.matrices, method.beta1, method.beta2)
                part.kept.fill_(True)  # a choice before the last zeroes Λ once, and the optimiser may fill it again
        if step == end or (start < step < end and step % method.interval == 0):
            total = sum(len(part.kept) for part in parts)
            count = budget(step, start, end, total, method.target_rank * len(parts))
            masks = most_important([part.importance.scores() for part in parts], count)
            for part, mask in zip(parts, masks):
                part.kept.copy_(mask)
        for part in parts:  # at every step: after the last choice, the optimiser would fill Λ again
            part.lora_E.masked_fill_(~part.kept[:, None], 0.0)

    def file_tensors(self) -> dict[str, Tensor]:
        stored = {}
        for path, part in self.parts.items():
            stored[f"base_model.model.{path}.lora_A"] = part.lora_A[part.kept]
            stored[f"base_model.model.{path}.lora_B"] = part.lora_B[:, part.kept]
            stored[f"base_model.model.{path}.lora_E"] = part.lora_E[part.kept]
        return stored

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_tensors(tensors)  # refuses what does not fit, but writes into the copies that file_tensors() makes
        for path, part in self.parts.items():
            part.lora_A[part.kept] = tensors[f"base_model.model.{path}.lora_A"]
            part.lora_B[:, part.kept] = tensors[f"base_model.model.{path}.lora_B"]
            part.lora_E[part.kept] = tensors[f"base_model.model.{path}.lora_E"]

    def to_peft(self) -> dict:
        """The settings, and which triplets are left of the initial ones."""
        pattern = {}
        for path, part in self.parts.items():
            kept = iter(part.kept.tolist())  # only for triplets that were there at the start
            pattern[f"{path}.lora_E"] = [there and next(kept) for there in self.method.kept_at_start(path)]
        pruned = not all(all(kept) for kept in pattern.values())
        return self.method.to_peft(self.steps) | {"rank_pattern": pattern if pruned else None}
