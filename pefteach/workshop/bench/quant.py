"""NF4 of a 4096 x 4096 matrix, there and back, against bitsandbytes' functions on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pefteach.quant import quantise_4bit
from pefteach.workshop.bench.timing import median_seconds
from pefteach.workshop.machine import need
from pefteach.workshop.rows import Row, row

LIMIT = 1.00


def run(rounds: int = 15, size: int = 4096) -> list[Row]:
    """Milliseconds per matrix and direction, all variants taking turns."""
    variants = make_variants(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))
    ms = {name: 1000 * seconds for name, seconds in median_seconds(variants, rounds).items()}
    what = f"NF4 of {size} x {size} in float32 against bitsandbytes"
    return [row(f"{way} {what}", "ms", ms[way], LIMIT, ms[f"bitsandbytes {way}"]) for way in ("quantise", "dequantise")]


def make_variants(weight: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Both directions of both packages, each from the same tensor to a new one."""
    theirs = need("bitsandbytes").functional
    ours, (packed, state) = quantise_4bit(weight), theirs.quantize_4bit(weight, quant_type="nf4")
    return {
        "quantise": lambda: quantise_4bit(weight),
        "bitsandbytes quantise": lambda: theirs.quantize_4bit(weight, quant_type="nf4"),
        "dequantise": ours.dequantise,
        "bitsandbytes dequantise": lambda: theirs.dequantize_4bit(packed, state),
    }
