"""The GPU that is measured: all that CUDA alone can say or do."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pefteach.quant.fast import fused


class Gpu:
    """The current CUDA device.

    Raises:
        ValueError: there is none, or Triton does not work on it.
    """

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise ValueError("`pefteach bench gpu` needs a CUDA device, and this machine has none that torch can use")
        self.device = torch.device("cuda", torch.cuda.current_device())
        if not fused.available(self.device):
            raise ValueError("`pefteach bench gpu` needs Triton and a GPU of compute capability 8.0 (Ampere) or later")

    def wait(self) -> None:
        """Until everything that was started is done: a GPU computes while Python goes on."""
        torch.cuda.synchronize(self.device)

    def held(self) -> int:
        """Bytes of the tensors that live now."""
        return torch.cuda.memory_allocated(self.device)

    def highest(self) -> int:
        """The most of them at any time since :meth:`forget`."""
        return torch.cuda.max_memory_allocated(self.device)

    def forget(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def recorded(self, call: Callable[[], object], times: int) -> Callable[[], object]:
        """``times`` calls as one function.

        They are recorded as a CUDA graph, which the GPU plays back by itself. For a kernel of 20 µs, Python takes
        longer to start it than the GPU to carry it out; without the graph both variants would measure Python.
        """
        call()  # compiles, fills caches
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(times):
                call()
        return graph.replay


def timed(gpu: Gpu, variant: Callable[[], object]) -> Callable[[], None]:
    """The variant, over only when the GPU is done with it."""

    def run() -> None:
        variant()
        gpu.wait()

    return run
