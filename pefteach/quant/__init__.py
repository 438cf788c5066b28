"""Quantisation from scratch: uniform grids, code books, blocks, double quantisation, and a linear layer in 4 bits."""

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
