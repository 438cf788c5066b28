"""Parallel adapters: a bottleneck beside the feed-forward network, which reads the residual stream.

He et al. 2022, "Towards a Unified View of Parameter-Efficient Transfer Learning", section 3.3. In the feed-forward half
of a block, with A of ``bottleneck.py`` and a scale s,

    h becomes h + s A(x),    x, h: (B, T, D)

x is the residual stream before the norm.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pefteach.methods.core.bottleneck import Bottleneck, BottleneckPart, StreamPart
from pefteach.methods.core.sites import Sites
from pefteach.methods.core.wrapping import Part


class ParallelPart(BottleneckPart):
    """A reads x, the residual stream."""

    composes_as = "adds"

    def read(self, h: Tensor) -> Tensor:
        return self.stream.take()


@dataclass(frozen=True)
class ParallelAdapters(Bottleneck):
    """Settings of parallel adapters: h + s A(x) in the feed-forward half of every block."""

    reduction: float = 2
    init: str = "zero"
    scale: float | str = 4.0

    def place(self, sites: Sites, D: int, m: int) -> dict[str, Part]:
        stream = StreamPart()
        return {sites.stream: stream, sites.feed_forward: ParallelPart(D, m, self, stream)}
