"""NF4 of one matrix of a 7B Llama: dequantise it, or multiply with it, against bitsandbytes' kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pefteach.quant import Linear4bit, quantise_4bit
from pefteach.workshop.bench.gpu.device import Gpu, timed
from pefteach.workshop.bench.timing import median_seconds
from pefteach.workshop.machine import need
from pefteach.workshop.rows import Row, row

SHAPE = (4096, 11008)  # (out, in) of down_proj
LIMIT = 1.00
CALLS = 50  # per turn
ROWS = (1, 16)  # one text that is being written, and sixteen
CLOSE = 0.02  # bfloat16 keeps 8 bits, and a sum of many products a little less


@torch.no_grad()
def run(gpu: Gpu, rounds: int = 20, shape: tuple[int, int] = SHAPE) -> list[Row]:
    """Microseconds on the GPU per call, all variants taking turns, and GB/s.

    Raises:
        ValueError: the variants give different results.
    """
    torch.manual_seed(0)
    matrix = torch.randn(shape, device=gpu.device, dtype=torch.bfloat16)
    rows = [torch.randn(n, shape[1], device=gpu.device, dtype=torch.bfloat16) for n in ROWS]
    variants, size = make_variants(matrix, rows), " x ".join(map(str, shape))
    for name in variants:
        if not name.startswith(("bitsandbytes", "copy")):
            same(name, variants[name](), variants[f"bitsandbytes {name}"]())
    played = {name: timed(gpu, gpu.recorded(variant, CALLS)) for name, variant in variants.items()}
    us = {name: 1e6 * seconds / CALLS for name, seconds in median_seconds(played, rounds).items()}
    found = [
        row(f"{name}, NF4 of {size} in bf16, against bitsandbytes", "µs", us[name], LIMIT, us[f"bitsandbytes {name}"])
        for name in variants
        if f"bitsandbytes {name}" in variants
    ]
    read = quantise_4bit(matrix, double_quantisation=True).nbytes
    speed = (read + matrix.nbytes) / us["dequantise"] / 1e3  # bytes per µs are MB/s
    copied = 2 * matrix.nbytes / us["copy"] / 1e3
    return [*found, row("memory traffic of dequantise, against a copy of its result", "GB/s", speed, None, copied)]


def make_variants(matrix: Tensor, rows: list[Tensor]) -> dict[str, Callable[[], Tensor]]:
    """Dequantise, and multiply each of ``rows`` (n, in) with the matrix (out, in), in both packages."""
    bnb = need("bitsandbytes")
    ours = quantise_4bit(matrix, double_quantisation=True)
    packed, state = bnb.functional.quantize_4bit(matrix, quant_type="nf4", compress_statistics=True)
    layer, target = Linear4bit(ours, None), torch.empty_like(matrix)
    variants: dict[str, Callable[[], Tensor]] = {
        "dequantise": ours.dequantise,
        "bitsandbytes dequantise": lambda: bnb.functional.dequantize_4bit(packed, state),
        "copy": lambda: target.copy_(matrix),
    }
    for x in rows:
        name = f"product with {len(x)} row{'s' if len(x) > 1 else ''}"
        variants[name] = partial(layer, x)
        variants[f"bitsandbytes {name}"] = partial(bnb.matmul_4bit, x, packed, quant_state=state)
    return variants


def same(what: str, ours: Tensor, theirs: Tensor) -> None:
    """Refuse to time variants that do not compute the same.

    Raises:
        ValueError: they differ by more than rounding.
    """
    ours, theirs = ours.float(), theirs.float()
    if ours.shape != theirs.shape or not (ours - theirs).norm() <= CLOSE * theirs.norm():
        raise ValueError(f"{what}: pefteach and bitsandbytes give different results, so there is nothing to compare")
