"""The optimisers of QLoRA by name: plain AdamW, or AdamW with bitsandbytes' paged states on a GPU.

AdamW keeps two numbers per trained parameter. Paged states (Dettmers et al. 2023, section 3) lie in memory that the
driver moves between GPU and CPU by itself, so that one long batch does not end the run. In 8 bits (Dettmers et al.
2021, "8-bit Optimizers via Block-wise Quantization") they need a quarter of the memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from pefteach.choices import OPTIMIZERS
from pefteach.quant.load import bitsandbytes
from pefteach.training.adamw import AdamW


def optimizer_for(
    name: str, device: torch.device, sharded: bool = False
) -> tuple[Callable[..., torch.optim.Optimizer], str | None]:
    """The function that makes the optimiser of this name, and a note if plain AdamW takes its place.

    Args:
        sharded: whether FSDP shards the trained weights, and so the states: bitsandbytes' kernels refuse such tensors.

    Raises:
        ValueError: an unknown name, or bitsandbytes is not installed.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"no optimiser is called {name!r}: choose one of {', '.join(OPTIMIZERS)}")
    if name == "adamw":
        return AdamW, None
    if device.type != "cuda":
        return AdamW, f"{name} needs a GPU, whose memory is what it pages: training with plain AdamW"
    if sharded:
        return AdamW, f"{name} cannot be sharded: training with plain AdamW, whose states FSDP shares out"
    bits = 8 if name.endswith("8bit") else 32
    return functools.partial(bitsandbytes().optim.AdamW, optim_bits=bits, is_paged=True), None
