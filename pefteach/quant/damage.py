"""What a model loses by holding its weights in few bits."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from pefteach.quant.four_bit import quantise_4bit
from pefteach.quant.grids import absmax_grid
from pefteach.quant.load import block_linears

BLOCK = 64

# From the least damage to the most; FP4 and INT4 share a place, for which is worse depends on the weights.
GRIDS: dict[str, Callable[[Tensor], Tensor]] = {
    "8 bit": lambda weight: absmax_grid(weight, 8, BLOCK).dequantise(),
    "NF4": lambda weight: quantise_4bit(weight, "nf4", BLOCK, double_quantisation=True).dequantise(),
    "FP4": lambda weight: quantise_4bit(weight, "fp4", BLOCK, double_quantisation=True).dequantise(),
    "INT4": lambda weight: absmax_grid(weight, 4, BLOCK).dequantise(),
    "3 bit": lambda weight: absmax_grid(weight, 3, BLOCK).dequantise(),
    "2 bit": lambda weight: absmax_grid(weight, 2, BLOCK).dequantise(),
}


@torch.no_grad()
def damaged(model: nn.Module, grid: str) -> nn.Module:
    """A copy of the model whose linear layers in the blocks have been to a grid of ``GRIDS`` and back.

    It computes as the quantised model would, in full precision.

    Raises:
        KeyError: an unknown grid.
    """
    copy = deepcopy(model)
    for layer in block_linears(copy).values():
        weight: Any = layer.weight
        weight.copy_(GRIDS[grid](weight))
    return copy
