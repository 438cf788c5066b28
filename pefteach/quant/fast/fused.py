"""When the Triton kernels are used, and how they are started. What they do is told in ``kernels.py``."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from pefteach.quant.codebooks import codebook
from pefteach.quant.codes import Codes4bit
from pefteach.quant.double import NestedAbsmax

RUN = 64  # weights: 32 bytes, the least that a GPU's memory delivers
RUNS = 64  # in a tile of W: 64 · 64 = 4,096 weights, 32 for each of a program's 128 threads
ROWS = 16  # of x in a tile, the least that the GPU's matrix units take
PROGRAMS = 1024  # about eight for each processor of a large GPU: while one waits for memory, another computes


@lru_cache
def available(device: torch.device) -> bool:
    """Whether the kernels run on this device: a GPU of compute capability 8.0 or later (Ampere), with Triton.

    They are tried once. Triton may be installed and not work: it needs a C compiler. A warning then says so.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    try:
        packed = torch.ones(1, 1, dtype=torch.uint8, device=device)
        trial = Codes4bit(packed, torch.ones(1, device=device), "nf4", 64, torch.Size([2]), torch.float32)
        dequantise_weight(trial, torch.float32)
    except Exception as error:  # a missing compiler, an old Triton, an old driver: each fails in its own way
        warnings.warn(f"4-bit weights go through PyTorch, since Triton does not work here: {error}", stacklevel=2)
        return False
    return True


def worth_fusing(x: Tensor, weight: Codes4bit) -> bool:
    """Whether :func:`matmul` can compute a product of x (..., in or out), and is the better way.

    With more than one tile of rows each tile would dequantise all of W for itself, and read it again. From there on
    it is faster to dequantise once, into memory, and leave the product to cuBLAS, whose tiles of x and W are larger
    and load while others multiply. In float32 the matrix units are not used, and most of a tile of rows is padding.
    """
    rows = x.numel() // x.shape[-1]
    return (
        available(x.device)
        and 0 < rows <= ROWS
        and x.dtype in (torch.float16, torch.bfloat16)
        and _fits(weight)
        and not (torch.is_grad_enabled() and x.requires_grad)  # autograd does not see into a kernel
    )


def dequantise_weight(weight: Codes4bit, dtype: torch.dtype) -> Tensor:
    """``weight.dequantise(dtype)`` in one kernel, bit for bit: any shape and block size."""
    n = weight.shape.numel()
    out = torch.empty(weight.shape, dtype=dtype, device=weight.packed.device)
    grid = (-(-n // (RUNS * _run(weight))),)
    with torch.cuda.device_of(out):  # Triton starts on the current device, wherever the tensors are
        # A fused multiply-add rounds once where PyTorch, which adds the offset in a second step, rounds twice.
        _kernels().dequantise_tile[grid](
            out, n, bytes=len(weight.packed), **_arguments(weight), RUNS=RUNS, enable_fp_fusion=False
        )
    return out


def matmul(x: Tensor, weight: Codes4bit, backward: bool = False) -> Tensor:
    """x Wᵀ, or with ``backward`` x W, with W (out, in) in 4 bits; the full W exists nowhere.

    Args:
        x: (..., in), or (..., out) with ``backward``: float32, float16 or bfloat16, at least one row.

    Returns:
        (..., out), or (..., in) with ``backward``, in x's precision; products are summed in float32.

    Raises:
        ValueError: a weight with an odd number of inputs, or in blocks of less than 16.
    """
    if not _fits(weight):
        raise ValueError(
            f"the fused product takes an even number of inputs in blocks of at least 16, not {tuple(weight.shape)} in "
            f"blocks of {weight.block_size}: dequantise the weight and use F.linear"
        )
    columns, inner = reversed(weight.shape) if backward else weight.shape
    flat, run = x.reshape(-1, inner).contiguous(), _run(weight)
    # Runs lie along W's in, which is summed over forward, and is the result's columns backward.
    inner_tile, columns_tile = (RUNS, run) if backward else (run, RUNS)
    tiles = (-(-len(flat) // ROWS), -(-columns // columns_tile))
    # Few rows make few tiles. To keep the whole GPU busy, several programs share the inner dimension of one.
    steps = -(-inner // inner_tile)
    share = -(-steps * tiles[0] * tiles[1] // PROGRAMS)  # steps for each
    parts = -(-steps // share)
    sums = torch.empty(parts, len(flat), columns, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _kernels().product[(*tiles, parts)](
            flat, sums, len(flat), inner, columns, share * inner_tile, **_arguments(weight),
            BACKWARD=backward, ROWS=ROWS, INNER=inner_tile, COLUMNS=columns_tile,
        )  # fmt: skip
    return sums.sum(0).to(x.dtype).view(*x.shape[:-1], columns)


def _arguments(weight: Codes4bit) -> dict[str, Any]:
    """What every kernel is told about a weight."""
    absmax, device = weight.absmax, weight.packed.device
    double = isinstance(absmax, NestedAbsmax)
    return {
        "packed": weight.packed,
        "levels": codebook(weight.quant_type, device),
        "scales": absmax.codes if double else absmax,
        "blocks": -(-weight.shape.numel() // weight.block_size),
        "dynamic": codebook("dynamic", device) if double else None,
        "nested": absmax.absmax if double else None,
        "offset": absmax.offset if double else None,
        "SIZE": weight.block_size,
        "RUN": _run(weight),
        "DOUBLE": double,
    }


def _run(weight: Codes4bit) -> int:
    """How many weights a run has: a power of two, whole bytes, and it meets two blocks at most."""
    return min(RUN, max(2, 2 ** (weight.block_size.bit_length() - 1)))


def _fits(weight: Codes4bit) -> bool:
    """Whether every row starts with a whole byte, and runs are as long as the matrix units want."""
    return weight.shape[-1] % 2 == 0 and weight.block_size >= 16


def _kernels() -> Any:
    from pefteach.quant.fast import kernels  # imports Triton, which takes a second and is not everywhere

    return kernels
