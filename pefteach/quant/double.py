"""Double quantisation: the scales of the blocks are numbers too, so quantise them as well.

Dettmers et al. 2023, "QLoRA", section 3. One float32 scale per 64 weights costs half a bit per weight. The scales
c2 are all positive, so their mean is taken off first; what is left goes block-wise, 256 scales to a block, into
8-bit codes of the dynamic map with a float32 scale c1 of their own:

    32/64 = 0.5 bits    ->    8/64 + 32/(64 · 256) = 0.127 bits per weight
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from pefteach.quant.blockwise import decode, encode

BLOCK = 256  # scales


@dataclass(frozen=True)
class NestedAbsmax:
    """Scales, quantised.

    Attributes:
        codes: (blocks,) uint8, in the dynamic map.
        absmax: the scales of the scales, (⌈blocks / 256⌉,) float32.
        offset: the mean of the scales, () float32.
    """

    codes: Tensor
    absmax: Tensor
    offset: Tensor

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.absmax.nbytes + self.offset.nbytes

    def expand(self) -> Tensor:
        """The scales again, (blocks,) float32, to about 0.2 %."""
        return decode(self.codes, self.absmax, "dynamic", BLOCK) + self.offset

    def map(self, change: Callable[[Tensor], Tensor]) -> NestedAbsmax:
        """The same with every tensor changed, such as moved to a device."""
        return replace(self, codes=change(self.codes), absmax=change(self.absmax), offset=change(self.offset))


def compress(absmax: Tensor) -> NestedAbsmax:
    """Quantise scales (blocks,) float32."""
    offset = absmax.mean()
    codes, absmax_of_absmax = encode(absmax - offset, "dynamic", BLOCK)
    return NestedAbsmax(codes[: len(absmax)], absmax_of_absmax, offset)
