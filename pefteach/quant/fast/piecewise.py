"""Works through a tensor in pieces that fit the processor's cache, where each step finds what the last one left.

torch would share each operation among its threads, and wait for all of them every time. Here each thread takes whole
pieces, and they meet once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

PIECE = 2**17  # values: 512 KB in float32


def blocks_in_piece(n: int, block_size: int, device: torch.device) -> int:
    """How many blocks a piece of n values has: an even number, so that it ends with a whole byte. A GPU takes all."""
    most = PIECE if device.type == "cpu" else n + 2 * block_size
    return max(1, most // (2 * block_size)) * 2


def run_in_threads(work: Callable[..., None], parts: Iterable[tuple[Tensor, ...]]) -> None:
    """Call ``work(*part)`` for every part. The parts are independent, and ``work`` writes into one of its tensors."""
    todo, threads = list(parts), torch.get_num_threads()
    inference = torch.is_inference_mode_enabled()  # each thread has its own mode

    def every_nth(first: int) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            for part in todo[first::threads]:
                work(*part)

    if len(todo) < 2 * threads:
        threads = 1
    if threads == 1:
        every_nth(0)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(every_nth, range(threads)))  # list() lets what a thread raised out
    finally:
        torch.set_num_threads(threads)  # a thread sets its own number, and the one that later threads start with
