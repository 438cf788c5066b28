"""Uniform grids: the simplest quantisation, levels at equal distances.

**Absmax** (Dettmers et al. 2022, "LLM.int8()", section 2) puts the levels symmetrically around zero:

    q = round(x / s),    s = absmax(x) / (2^(bits-1) - 1),    x ≈ s q

**Zero-point** spends all levels between the smallest and the largest value, so it wastes none on a sign that does
not occur, and stores where zero is:

    q = round(x / s) + z,    s = (max(x) - min(x)) / (2^bits - 1),    z = -round(min(x) / s),    x ≈ s (q - z)

A scale may serve the whole tensor, one row, or a block of consecutive values: the smaller its group, the less an
outlier spoils, and the more scales there are to store.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pefteach.quant.packing import pack, unpack


@dataclass(frozen=True)
class Uniform:
    """A tensor on a uniform grid.

    Attributes:
        packed: the codes, as many to a byte as fit, (⌈n · bits / 8⌉,) uint8.
        scale: the distance s of two levels, (groups,) float32.
        zero_point: the code z of zero, (groups,) uint8; None on a grid around zero.
        group: how many consecutive values share a scale.
        shape, dtype: of the tensor that it was.
    """

    packed: Tensor
    scale: Tensor
    zero_point: Tensor | None
    bits: int
    group: int
    shape: torch.Size
    dtype: torch.dtype

    @property
    def codes(self) -> Tensor:
        """What is stored for each value, in the tensor's shape, uint8. Around zero, code 2^(bits-1) stands for 0."""
        return unpack(self.packed, self.bits, self.shape.numel()).view(self.shape)

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.scale.nbytes + (0 if self.zero_point is None else self.zero_point.nbytes)

    @property
    def bits_per_parameter(self) -> float:
        """Bits of storage, scales included, per value."""
        return 8 * self.nbytes / self.shape.numel()

    def dequantise(self) -> Tensor:
        """The values of the codes, in the shape and precision of the tensor that they were made from."""
        levels = in_groups(self.codes.float().view(-1), self.group)  # (groups, group)
        zero = 2 ** (self.bits - 1) if self.zero_point is None else self.zero_point.float()[:, None]
        values = (levels - zero) * self.scale[:, None]
        return values.view(-1)[: self.shape.numel()].view(self.shape).to(self.dtype)


def absmax_grid(x: Tensor, bits: int, per: str | int = "tensor") -> Uniform:
    """Put x on a grid around zero: codes -(2^(bits-1) - 1) … 2^(bits-1) - 1, stored with 2^(bits-1) added.

    Args:
        x: any shape, float32, float16 or bfloat16.
        bits: 2 to 8.
        per: what shares a scale: "tensor", "row" (the last dimension) or a number of consecutive values.

    Raises:
        ValueError: an empty or non-finite tensor, a precision, bits or grouping that is not there.
    """
    groups, group = _checked(x, bits, per)
    largest = 2 ** (bits - 1) - 1
    scale = groups.abs().amax(1) / largest
    codes = (groups / _not_zero(scale)[:, None]).round() + 2 ** (bits - 1)  # torch rounds halves to even
    return _stored(x, codes, scale, None, bits, group)


def zero_point_grid(x: Tensor, bits: int, per: str | int = "tensor") -> Uniform:
    """Put x on a grid from its smallest to its largest value, which includes zero: codes 0 … 2^bits - 1.

    Takes and raises what :func:`absmax_grid` does.
    """
    groups, group = _checked(x, bits, per)
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)  # zero must have a code of its own
    scale = high / (2**bits - 1) - low / (2**bits - 1)  # high - low might overflow
    zero = -(low / _not_zero(scale)).round()
    codes = (groups / _not_zero(scale)[:, None]).round() + zero[:, None]
    return _stored(x, codes, scale, zero.to(torch.uint8), bits, group)


def in_groups(flat: Tensor, group: int) -> Tensor:
    """(n,) -> (⌈n / group⌉, group): consecutive values in rows, the last row filled up with zeros."""
    return F.pad(flat, (0, -len(flat) % group)).view(-1, group)


def check_values(x: Tensor) -> None:
    """Raise a ValueError unless x is a tensor that can be quantised, apart from its values being finite."""
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"can only quantise float32, float16 or bfloat16, not {x.dtype}: convert the tensor first")
    if x.numel() == 0:
        raise ValueError(f"cannot quantise an empty tensor, and this one has shape {tuple(x.shape)}")


def check_finite(largest: Tensor) -> None:
    """Raise a ValueError if one of the largest magnitudes, and so a value of its group, is NaN or infinite."""
    if not largest.isfinite().all():
        raise ValueError("cannot quantise NaN or infinite values, which have no scale: find them with x.isfinite()")


def _checked(x: Tensor, bits: int, per: str | int) -> tuple[Tensor, int]:
    check_values(x)
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be 2 to 8, not {bits}")
    if per == "tensor":
        group = x.numel()
    elif per == "row":
        group = x.shape[-1] if x.dim() else 1
    elif isinstance(per, int) and per >= 1:
        group = per
    else:
        raise ValueError(f"per must be 'tensor', 'row' or a block size of at least 1, not {per!r}")
    groups = in_groups(x.detach().float().reshape(-1), group)
    check_finite(groups.abs().amax())
    return groups, group


def _not_zero(scale: Tensor) -> Tensor:
    return scale.masked_fill(scale == 0, 1)  # a group of zeros has scale 0, and its codes are those of 0


def _stored(x: Tensor, codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int) -> Uniform:
    codes = codes.view(-1)[: x.numel()].clamp(0, 2**bits - 1)  # a scale too small for float32 overshoots
    packed = pack(codes.to(torch.uint8), bits)
    return Uniform(packed, scale, zero, bits, group, x.shape, x.dtype)
