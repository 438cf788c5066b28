"""Pfeiffer's adapters: half as many as Houlsby's, and they read the residual stream too.

Pfeiffer et al. 2020, "AdapterFusion: Non-Destructive Task Composition for Transfer Learning". In the feed-forward half
of a block, with A of ``bottleneck.py``,

    h becomes h + A(x + h),    x, h: (B, T, D)

Where the block normalises the sum, as BERT's does, A reads the normalised sum:

    LN(x + h) becomes LN(x + h + A(LN(x + h)))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pefteach.methods.core.bottleneck import Bottleneck, BottleneckPart, StreamPart
from pefteach.methods.core.sites import Sites
from pefteach.methods.core.wrapping import Part


class PfeifferPart(BottleneckPart):
    """A reads x + h, what the block passes on."""

    def read(self, h: Tensor) -> Tensor:
        return self.stream.take() + h


class PfeifferNormPart(BottleneckPart):
    """A reads LN(x + h). The part wraps that LayerNorm, and calls it a second time on the new sum."""

    def forward(self, call: Callable, total: Tensor) -> Tensor:
        return call(self.add(total, call(total)))


@dataclass(frozen=True)
class PfeifferAdapters(Bottleneck):
    """Settings of Pfeiffer's adapters: h + A(x + h) in the feed-forward half of every block."""

    def place(self, sites: Sites, D: int, m: int) -> dict[str, Part]:
        if sites.norm is not None:
            return {sites.norm: PfeifferNormPart(D, m, self)}
        stream = StreamPart()
        return {sites.stream: stream, sites.feed_forward: PfeifferPart(D, m, self, stream)}
