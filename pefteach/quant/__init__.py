"""Quantisation from scratch: uniform grids, code books, blocks, double quantisation, and a linear layer in 4 bits.

Read the files in this order:

    grids.py       levels at equal distances
    codebooks.py   levels where weights are: NF4, FP4 and the 8-bit dynamic map
    blockwise.py   a scale per block of weights
    double.py      the scales quantised too
    packing.py     codes of a few bits in bytes
    codes.py       what a tensor in 4 bits consists of
    four_bit.py    a tensor to 4 bits and back
    linear4bit.py  a linear layer with its weight in 4 bits
    load.py        whole models
    files.py       bitsandbytes' file format
    damage.py      what few bits cost

``fast/`` is speed only; a reader may skip it.
"""

from pefteach.quant.codebooks import codebook, derive_dynamic, derive_nf4
from pefteach.quant.double import NestedAbsmax
from pefteach.quant.four_bit import Quantised4bit, quantise_4bit
from pefteach.quant.grids import Uniform, absmax_grid, zero_point_grid
from pefteach.quant.linear4bit import Linear4bit
from pefteach.quant.load import dequantise, load_in_4bit, quantise

__all__ = [
    "Linear4bit", "NestedAbsmax", "Quantised4bit", "Uniform", "absmax_grid", "codebook", "dequantise",
    "derive_dynamic", "derive_nf4", "load_in_4bit", "quantise", "quantise_4bit", "zero_point_grid",
]  # fmt: skip
