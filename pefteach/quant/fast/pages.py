"""Memory for a large result, in large pages where Linux gives them.

A new tensor of 64 MB is 16,384 pages of 4 KB, and the processor stops at the first touch of each. For a result that
is computed in a few milliseconds these stops can take most of the time. With madvise(MADV_HUGEPAGE), Linux gives pages
of 2 MB instead.
"""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

LARGE = 2**21  # bytes


def empty_huge_pages(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``torch.empty(n)``, ready to be written from end to end."""
    out = torch.empty(n, dtype=dtype, device=device)
    if out.device.type == "cpu" and out.nbytes >= LARGE and hasattr(mmap, "MADV_HUGEPAGE"):
        start = -(-out.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE  # advice is for whole pages
        length = (out.data_ptr() + out.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    return out
