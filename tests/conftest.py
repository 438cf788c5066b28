"""Fixtures of every folder: a tiny model and a batch for it; and no GPU test without a GPU."""

import pytest
import torch
from torch import nn

from pefteach.workshop.parity.families import make, make_batch


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and there is none")


@pytest.fixture
def model() -> nn.Module:
    """The course's decoder, tiny and random."""
    return make("ours")


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Three rows of nine tokens, the second padded on the right."""
    return make_batch("ours")
