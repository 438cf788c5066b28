"""The values that codes stand for: NF4, FP4 and the 8-bit dynamic map.

A code book is a list of numbers in [-1, 1]; a code is a place in it. Times the largest magnitude of its block, a
number of the code book becomes a weight again.

* NF4 (Dettmers et al. 2023, "QLoRA", section 3 and appendix E): quantiles of the normal distribution.
* FP4: a sign, two bits of exponent and one of mantissa, as bitsandbytes has it. It is not the E2M1 of the Open
  Compute Project: its smallest step is 1/192 of the largest value, there it is 1/12.
* Dynamic map (Dettmers 2015, "8-Bit Approximations for Parallelism in Deep Learning"): a sign, an exponent of base
  ten of changing length, and what is left as a fraction. QLoRA keeps the scales of its blocks in it. The paper
  calls it an 8-bit float, but it has neither a fixed exponent nor powers of two.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import torch
from torch import Tensor

# Derived by derive_nf4, and written down as bitsandbytes has it: the last bit depends on who computes the quantiles.
_NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip

# In the order of the bit patterns 0000 to 0111, in twelfths; with bit 3 set, the same below zero.
_FP4 = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0]

NAMES = ("nf4", "fp4", "dynamic")


def derive_nf4() -> Tensor:
    """The sixteen values of NF4, (16,) float32, within 5e-7 of the table.

    Eight levels above zero and seven below it, each at a quantile of the normal distribution, so that about as many
    normally distributed weights fall to one level as to any other. Zero itself is a level: what is exactly zero
    (padding, a pruned weight) stays zero. The outermost quantile is halfway between what 15 and 16 levels would want.
    """
    quantile = NormalDist().inv_cdf
    outermost = ((1 - 1 / 32) + (1 - 1 / 30)) / 2
    levels = lambda count: [quantile(p) for p in torch.linspace(outermost, 0.5, count + 1).tolist()[:-1]]
    values = torch.tensor([-v for v in levels(7)] + [0.0] + levels(8)).sort().values
    return values / values.max()


def derive_dynamic() -> Tensor:
    """The 256 values of the signed dynamic map, (256,) float32, in increasing order.

    For each power of ten from 1e-6 to 1, twice as many values as for the one below it: the middles of 1, 2, 4 … 64
    equal parts of [0.1, 1] times that power, above and below zero. To these 254 come 0 and 1.
    """
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        middles = 10 ** (i - 6) * (edges[:-1] + edges[1:]) / 2
        values += middles.tolist() + (-middles).tolist()
    return torch.tensor(sorted(values))


@lru_cache
def codebook(name: str, device: torch.device | str = "cpu") -> Tensor:
    """The values of a code book in the order of their codes: (16,) or (256,) float32. Do not change them in place.

    Raises:
        ValueError: no code book of that name.
    """
    if name == "nf4":
        values = torch.tensor(_NF4)
    elif name == "fp4":
        values = torch.tensor(_FP4 + [-v for v in _FP4]) / 12
    elif name == "dynamic":
        values = derive_dynamic()
    else:
        raise ValueError(f"no code book is called {name!r}: choose one of {', '.join(NAMES)}")
    return values.to(device)


@lru_cache
def boundaries(name: str, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Where the nearest value changes: the midpoints in increasing order, and the codes of the intervals they part.

    Returns:
        Midpoints (15,) or (255,) float32; codes (16,) or (256,) uint8.
    """
    values, codes = codebook(name, device).sort(stable=False)
    return (values[:-1] + values[1:]) / 2, codes.to(torch.uint8)
