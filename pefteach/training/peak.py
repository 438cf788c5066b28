"""The peak memory of a run."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device) -> int:
    """The most bytes in use so far: those that torch allocated on a GPU, else this process's; 0 on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:  # Windows has no such count
        return 0
    return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
