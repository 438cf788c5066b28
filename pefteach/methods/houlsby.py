"""Houlsby's adapters: one after the attention and one after the feed-forward network of every block.

Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", section 2.1. In both halves of a block, with
A of ``bottleneck.py``,

    h becomes h + A(h),    h: (B, T, D)

The paper trains the norms too: activate ``Norms`` with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pefteach.methods.core.bottleneck import Bottleneck, BottleneckPart
from pefteach.methods.core.sites import Sites
from pefteach.methods.core.wrapping import Part


class HoulsbyPart(BottleneckPart):
    """A reads h, the output of the module that it wraps."""

    def read(self, h: Tensor) -> Tensor:
        return h


@dataclass(frozen=True)
class HoulsbyAdapters(Bottleneck):
    """Settings of Houlsby's adapters: h + A(h) in both halves of every block."""

    activation: str = "swish"

    formula: ClassVar[str] = "2 L (2 D m + m + D)"
    per_block: ClassVar[int] = 2

    def place(self, sites: Sites, D: int, m: int) -> dict[str, Part]:
        return {sites.attention: HoulsbyPart(D, m, self), sites.feed_forward: HoulsbyPart(D, m, self)}
