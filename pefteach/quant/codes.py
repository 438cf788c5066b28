"""What a tensor in 4 bits consists of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pefteach.quant.double import NestedAbsmax


@dataclass(frozen=True)
class Codes4bit:
    """The codes and scales of a tensor in 4 bits.

    Attributes:
        packed: two codes per byte, the first in the high half, (⌈n / 2⌉, 1) uint8.
        absmax: the scale of every block, (blocks,) float32, or quantised itself.
        quant_type: "nf4" or "fp4".
        block_size: how many consecutive values share a scale.
        shape, dtype: of the tensor that it was.
    """

    packed: Tensor
    absmax: Tensor | NestedAbsmax
    quant_type: str
    block_size: int
    shape: torch.Size
    dtype: torch.dtype
