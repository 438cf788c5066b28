"""A tensor in 4 bits: NF4 or FP4 codes, two to a byte, and a scale per block. ``quantise_4bit`` and back.

Going back, a byte is looked up whole, in a table of 256 entries of two values each; on a GPU with Triton, one
kernel does it all (``fused.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from pefteach.choices import QUANT_TYPES
from pefteach.quant.blockwise import encode
from pefteach.quant.codebooks import codebook
from pefteach.quant.codes import Codes4bit
from pefteach.quant.double import NestedAbsmax, compress
from pefteach.quant.fast import fused
from pefteach.quant.fast.pages import empty_huge_pages
from pefteach.quant.fast.piecewise import blocks_in_piece, run_in_threads
from pefteach.quant.grids import check_values
from pefteach.quant.packing import pack_pairs


class Quantised4bit(Codes4bit):
    """A tensor in 4 bits: what :class:`Codes4bit` lists, and the way back."""

    @property
    def nbytes(self) -> int:
        """Bytes of storage. The code books, the same for all tensors, are not counted."""
        return self.packed.nbytes + self.absmax.nbytes

    @property
    def bits_per_parameter(self) -> float:
        return 8 * self.nbytes / self.shape.numel()

    def map(self, change: Callable[[Tensor], Tensor]) -> Quantised4bit:
        """The same with every tensor changed, such as moved to a device."""
        absmax = self.absmax.map(change) if isinstance(self.absmax, NestedAbsmax) else change(self.absmax)
        return replace(self, packed=change(self.packed), absmax=absmax)

    def dequantise(self, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor again, as near as sixteen levels come.

        Args:
            dtype: float32, float16 or bfloat16; the original's by default. The product of level and scale is formed
                in float32 and rounded once.
        """
        dtype, n, size = dtype or self.dtype, self.shape.numel(), self.block_size
        if fused.available(self.packed.device):
            return fused.dequantise_weight(self, dtype)
        absmax = self.absmax.expand() if isinstance(self.absmax, NestedAbsmax) else self.absmax
        packed, table = self.packed.view(-1), _byte_table(self.quant_type, self.packed.device)
        look_up = lambda bytes_: table.index_select(0, bytes_.int()).view(torch.float32)
        out = empty_huge_pages(n, dtype, packed.device)
        full, step = n // size, blocks_in_piece(n, size, packed.device)
        blocks = out[: full * size].view(full, size)

        def fill(bytes_: Tensor, scales: Tensor, target: Tensor) -> None:
            torch.mul(look_up(bytes_)[: target.numel()].view(target.shape), scales, out=target)

        run_in_threads(fill, zip(packed.split(step * size // 2), absmax[:full, None].split(step), blocks.split(step)))
        if short := n - full * size:
            out[-short:] = look_up(packed[full * size // 2 :])[full * size % 2 :][:short] * absmax[-1]
        return out.view(self.shape)


def quantise_4bit(
    x: Tensor, quant_type: str = "nf4", block_size: int = 64, double_quantisation: bool = False
) -> Quantised4bit:
    """Quantise a tensor of any shape; codes and scales are bitsandbytes' own, bit for bit.

    Args:
        x: float32, float16 or bfloat16.
        quant_type: "nf4" or "fp4".
        block_size: how many consecutive values share a scale; bitsandbytes knows the powers of two from 32 to 4096.
        double_quantisation: store the scales in 8 bits.

    Raises:
        ValueError: an empty or non-finite tensor, or a precision, quant_type or block size that is not there.
    """
    check_values(x)
    if quant_type not in QUANT_TYPES:
        raise ValueError(f"quant_type must be 'nf4' or 'fp4', not {quant_type!r}")
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, not {block_size}")
    flat = x.detach().reshape(-1)
    n = len(flat)
    packed = torch.empty(-(-n // 2), dtype=torch.uint8, device=x.device)
    absmax = torch.empty(-(-n // block_size), device=x.device)
    step = blocks_in_piece(n, block_size, x.device)

    def fill(values: Tensor, bytes_: Tensor, scales: Tensor) -> None:
        codes, scales[:] = encode(values, quant_type, block_size)
        bytes_[:] = pack_pairs(codes[: len(values) + len(values) % 2])

    run_in_threads(fill, zip(flat.split(step * block_size), packed.split(step * block_size // 2), absmax.split(step)))
    kept = compress(absmax) if double_quantisation else absmax
    return Quantised4bit(packed[:, None], kept, quant_type, block_size, x.shape, x.dtype)


@lru_cache
def _byte_table(quant_type: str, device: torch.device) -> Tensor:
    """The two values of every byte, (256,): two float32 in the guise of one int64, which is faster to look up."""
    values, byte = codebook(quant_type, device), torch.arange(256, device=device)
    return torch.stack([values[byte >> 4], values[byte & 15]], 1).view(torch.int64).view(-1)
