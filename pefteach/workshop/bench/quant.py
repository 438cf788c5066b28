"""NF4 of a 4096 x 4096 matrix, there and back, against bitsandbytes' functions on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pefteach.quant import quantise_4bit
from pefteach.workshop.bench.measure import Row, need, row, take_turns

BAR = 1.00


def measure(rounds: int = 15, size: int = 4096) -> list[Row]:
    """Milliseconds per matrix and direction, all arms taking turns."""
    arms = make_arms(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))
    ms = {name: 1000 * seconds for name, seconds in take_turns(arms, rounds).items()}
    what = f"NF4 of {size} x {size} in float32 against bitsandbytes"
    return [row(f"{way} {what}", "ms", ms[way], BAR, ms[f"bitsandbytes {way}"]) for way in ("quantise", "dequantise")]


def make_arms(weight: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Both directions of both packages, each from the same tensor to a new one."""
    theirs = need("bitsandbytes").functional
    ours, (packed, state) = quantise_4bit(weight), theirs.quantize_4bit(weight, quant_type="nf4")
    return {
        "quantise": lambda: quantise_4bit(weight),
        "bitsandbytes quantise": lambda: theirs.quantize_4bit(weight, quant_type="nf4"),
        "dequantise": ours.dequantise,
        "bitsandbytes dequantise": lambda: theirs.dequantize_4bit(packed, state),
    }
