"""Block-wise quantisation by a code book: scale each block by its largest magnitude, take the nearest level.

Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", section 2. A block is a run of consecutive
values of the flattened tensor, wherever its rows end; the last one may be short:

    absmax_b = max |x| over block b,    code = nearest level of x / absmax_b,    x ≈ level[code] · absmax_b

An outlier then spoils its own block only. What follows gives the bits that bitsandbytes gives: a value halfway
between two levels takes the lower one, and all arithmetic is in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pefteach.quant.codebooks import boundaries, codebook
from pefteach.quant.grids import check_finite, in_groups

SMALLEST = 1e-38  # below it, bitsandbytes scales a block as if this were its largest magnitude


def encode(x: Tensor, name: str, block_size: int) -> tuple[Tensor, Tensor]:
    """Quantise consecutive values.

    Args:
        x: (n,), float32, float16 or bfloat16.
        name: the code book, see :func:`pefteach.quant.codebooks.codebook`.

    Returns:
        Codes (n,) uint8, followed by those of zeros up to the end of a short last block; absmax (blocks,) float32.

    Raises:
        ValueError: NaN or an infinite value.
    """
    blocks = in_groups(x.float(), block_size)  # (blocks, block_size)
    absmax = blocks.abs().amax(1)
    check_finite(absmax)  # one NaN or infinity in a block is in its maximum
    scaled = blocks * (1 / absmax.clamp(min=SMALLEST))[:, None]
    if short := len(x) % block_size:  # bitsandbytes treats it apart, and the last bit tells
        absmax[-1].clamp_(min=SMALLEST)
        scaled[-1, :short] = blocks[-1, :short] / absmax[-1]
    midpoints, order = boundaries(name, x.device)
    places = count_below(scaled.view(-1), midpoints)
    return (order[places.int()] if name == "fp4" else places), absmax


def count_below(x: Tensor, midpoints: Tensor) -> Tensor:
    """How many midpoints (m,) are smaller than each value of x (n,): (n,) uint8."""
    if len(midpoints) > 15 or x.device.type != "cpu":
        return torch.bucketize(x, midpoints, out_int32=True).to(torch.uint8)
    # Four steps of a binary search, each to an unforeseeable side, take a CPU longer than fifteen sweeps.
    count = torch.zeros(len(x), dtype=torch.uint8)
    for midpoint in midpoints.tolist():
        count += (x > midpoint).view(torch.uint8)
    return count


def decode(codes: Tensor, absmax: Tensor, name: str, block_size: int) -> Tensor:
    """The values of codes (n,) uint8 with their scales (blocks,) float32: (n,) float32."""
    levels = codebook(name, codes.device)[codes.int()]
    return (in_groups(levels, block_size) * absmax[:, None]).view(-1)[: len(codes)]
