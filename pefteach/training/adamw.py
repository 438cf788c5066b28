"""AdamW, and what its weight decay applies to."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import nn

from pefteach.methods.core.adapter import Adapter

AdamW = functools.partial(torch.optim.AdamW, foreach=True)


def parameter_groups(model: nn.Module, adapters: Sequence[Adapter], weight_decay: float) -> list[dict]:
    """What trains, in two groups: matrices, which decay, and the rest. Biases, norms and scales are not pulled to 0."""
    scales = {
        id(p)
        for adapter in adapters
        if not adapter.method.allows_weight_decay
        for p in adapter.trained_tensors().values()
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1 and id(p) not in scales]
    rest = [p for p in parameters if p.ndim <= 1 or id(p) in scales]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
