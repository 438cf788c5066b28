"""QLoRA's optimisers by name."""

import pytest
import torch
from torch import nn

from pefteach.training.optimizers import optimizer_for


def test_optimisers():
    cpu = torch.device("cpu")
    for name in ("paged-adamw-32bit", "paged-adamw-8bit"):
        make_it, note = optimizer_for(name, cpu)
        assert isinstance(make_it([nn.Parameter(torch.zeros(2))], lr=1.0), torch.optim.AdamW)
        assert note == f"{name} needs a GPU, whose memory is what it pages: training with plain AdamW"
    assert optimizer_for("adamw", cpu)[1] is None
    with pytest.raises(ValueError, match="no optimiser is called 'sgd': choose one of adamw, paged-adamw-32bit"):
        optimizer_for("sgd", cpu)
