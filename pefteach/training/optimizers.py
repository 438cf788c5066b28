"""AdamW for QLoRA: with plain states, or with bitsandbytes' paged ones on a GPU.

AdamW keeps two numbers per trained parameter. Paged states (Dettmers et al. 2023, section 3) lie in memory that the
driver moves between GPU and CPU by itself, so that one long batch does not end the run. In 8 bits (Dettmers et al.
2021, "8-bit Optimizers via Block-wise Quantization") they take a quarter of the room.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from pefteach.quant.load import bitsandbytes
from pefteach.training.fit import AdamW

PAGED = {"paged-adamw-32bit": 32, "paged-adamw-8bit": 8}
OPTIMIZERS = ("adamw", *PAGED)


def optimizer_for(
    name: str, device: torch.device, sharded: bool = False
) -> tuple[Callable[..., torch.optim.Optimizer], str | None]:
    """What makes the optimiser of this name, and a note if another had to stand in for it.

    Args:
        sharded: whether FSDP shards what trains, and so the states. bitsandbytes' kernels do not take sharded tensors.

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
    return functools.partial(bitsandbytes().optim.AdamW, optim_bits=PAGED[name], is_paged=True), None
