"""What the tests share."""

import pytest
import torch

from pefteach.model.decoder import Config, Decoder
from tiny import TINY, randomise


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and there is none")


@pytest.fixture
def model() -> Decoder:
    torch.manual_seed(0)
    return randomise(Decoder(Config(**TINY))).eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Three rows of nine tokens, the second padded on the right."""
    ids = torch.randint(3, 96, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}
