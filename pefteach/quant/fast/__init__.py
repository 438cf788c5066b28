"""Only speed: the same numbers, bit for bit, sooner. A reader may skip this folder.

Without large pages, or without pieces, dequantising takes longer than bitsandbytes and misses the limit of ``pefteach
bench quant``; so both are kept.

pages.py       memory in large pages, for large results on a CPU
piecewise.py   work in pieces that fit a CPU's cache, on all its cores
fused.py       when the GPU kernels are used, and how they are started
kernels.py     the kernels, in Triton
"""
