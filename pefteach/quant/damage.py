"""What a model loses by holding its weights in few bits."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from pefteach.quant.four_bit import Quantised4bit, quantise_4bit
from pefteach.quant.grids import Uniform, absmax_grid
from pefteach.quant.load import block_linears

BLOCK = 64

# A tensor in few bits, with a float32 scale for every so many consecutive values. From the least damage to the most;
# FP4 and INT4 share a place, for which is worse depends on the weights.
GRIDS: dict[str, Callable[[Tensor, int], Uniform | Quantised4bit]] = {
    "8 bit": lambda weight, block: absmax_grid(weight, 8, block),
    "NF4": lambda weight, block: quantise_4bit(weight, "nf4", block),
    "FP4": lambda weight, block: quantise_4bit(weight, "fp4", block),
    "INT4": lambda weight, block: absmax_grid(weight, 4, block),
    "3 bit": lambda weight, block: absmax_grid(weight, 3, block),
    "2 bit": lambda weight, block: absmax_grid(weight, 2, block),
}


@torch.no_grad()
def quantised_and_back(model: nn.Module, grid: str, block: int = BLOCK) -> nn.Module:
    """A copy of the model whose linear layers in the blocks have been to a grid of ``GRIDS`` and back.

    It computes as the quantised model would, in full precision.

    Args:
        block: how many consecutive weights share a scale.

    Raises:
        KeyError: an unknown grid.
    """
    copy = deepcopy(model)
    for layer in block_linears(copy).values():
        weight: Any = layer.weight
        weight.copy_(GRIDS[grid](weight, block).dequantise())
    return copy
