"""4-bit weights on a GPU, written in Triton: dequantise in one pass, or inside the matrix product.

**Why.** A GPU computes faster than its memory delivers: what counts is how many bytes cross between the two. In
PyTorch every operation of ``Quantised4bit.dequantise`` (expand the scales, look the bytes up, multiply, round) reads
its input from memory and writes its result back. *Fused*, as one kernel, the steps hand their numbers on in
registers. Bytes that cross per weight, with double quantisation (4.127 bits = 0.52 bytes) and a 16-bit result:

    dequantise, then multiply      0.52 read + 2 written, then 2 read again      4.52
    dequantise inside the product  0.52 read                                     0.52

When a model writes text, each weight meets one row of x per token, so the product waits for memory alone. With
hundreds of rows each weight read is used hundreds of times, and the tuned product of two 16-bit matrices wins.

**What a program is.** A function under ``@triton.jit`` is compiled for the GPU and started many times over, as a grid
of *programs* that run side by side and share nothing. Each asks for its number, ``tl.program_id``, and works out
which part of the result is its own: that part is its *tile*. Inside a program, variables are small tensors in
registers, and the code reads like NumPy with three additions:

    tl.arange(0, 64)                a tensor 0 … 63; sizes are powers of two, known when the kernel is compiled
    tl.load(start + i, mask)        the numbers at the addresses start + i, i being a tensor; where the mask is
                                    false nothing is read, and ``other`` stands in
    tl.store(start + i, x, mask)    and back

Tensors come in as the address of their first element. A parameter marked ``tl.constexpr`` is a constant of the
compiled kernel: each value of it makes a kernel of its own, in which an ``if`` on it costs nothing.

**What is done here.** The weight W (out, in) lies flat in memory: two codes in a byte, and a scale for every block of
SIZE weights, wherever rows end. The kernels take it in *runs* of RUN consecutive weights. ``weights`` dequantises many
runs at once; ``dequantise_tile`` writes them out, ``product`` multiplies with them. Their arguments, with n = out · in:

    packed   (⌈n / 2⌉,) uint8            two codes each, the first in the high half
    levels   (16,) float32               what the codes stand for
    scales   (blocks,) float32           or with double quantisation (DOUBLE) uint8, and the next three:
    dynamic  (256,) float32              what the codes of the scales stand for
    nested   (⌈blocks / 256⌉,) float32   a scale for every 256 scales
    offset   () float32                  the mean of the scales

``fused.py`` starts the kernels and says why the tiles have the sizes that they have.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton compiles what stands below, and takes constexpr for the only type.

import triton
import triton.language as tl


@triton.jit
def load_scales(block, blocks, scales, dynamic, nested, offset, DOUBLE: tl.constexpr):
    """The scales of some blocks: (runs,) -> (runs,) float32; any number for a block that does not exist."""
    scale = tl.load(scales + block, mask=block < blocks, other=0)
    if DOUBLE:
        group = tl.load(nested + block // 256, mask=block < blocks, other=0)
        scale = tl.load(dynamic + scale.to(tl.int32)) * group + tl.load(offset)  # uint8 200 would be taken for -56
    return scale


@triton.jit
def weights(
    start, length, packed, levels, scales, blocks, dynamic, nested, offset,
    SIZE: tl.constexpr, RUN: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    """Dequantise runs of consecutive weights.

    Args:
        start: the byte that each run starts with, (runs,) int64.
        length: how many bytes of each run exist, (runs,). What lies beyond comes out as any finite number.

    Returns:
        (runs, RUN) float32.
    """
    j = tl.arange(0, RUN // 2)[None, :]  # (1, RUN / 2)
    pair = tl.load(packed + start[:, None] + j, mask=j < length[:, None], other=0)  # (runs, RUN / 2)
    code = tl.interleave(pair >> 4, pair & 15).to(tl.int32)  # (runs, RUN)
    # A run is no longer than a block, so it meets two blocks at most, and mostly one.
    block = 2 * start // SIZE  # (runs,)
    left = (block + 1) * SIZE - 2 * start  # how many weights of the run its first block can hold
    one = load_scales(block, blocks, scales, dynamic, nested, offset, DOUBLE)
    two = load_scales(block + 1, blocks, scales, dynamic, nested, offset, DOUBLE)
    scale = tl.where(tl.arange(0, RUN)[None, :] < left[:, None], one[:, None], two[:, None])  # (runs, RUN)
    # A gather finds the levels inside the processor. 4,096 small loads would each go to the memory's cache.
    level = tl.gather(tl.load(levels + tl.arange(0, 16)), tl.ravel(code), 0).reshape(code.shape)
    return level * scale


@triton.jit
def dequantise_tile(
    out, n, packed, bytes, levels, scales, blocks, dynamic, nested, offset,
    SIZE: tl.constexpr, RUN: tl.constexpr, DOUBLE: tl.constexpr, RUNS: tl.constexpr,
):  # fmt: skip
    """Write the tile of RUNS · RUN values that is this program's; out: (n,) in any precision."""
    run = tl.program_id(0).to(tl.int64) * RUNS + tl.arange(0, RUNS)  # (RUNS,)
    start = run * (RUN // 2)
    value = weights(start, bytes - start, packed, levels, scales, blocks, dynamic, nested, offset, SIZE, RUN, DOUBLE)
    place = run[:, None] * RUN + tl.arange(0, RUN)[None, :]  # (RUNS, RUN)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=place < n)


@triton.jit
def product(
    x, sums, rows, inner, columns, share, packed, levels, scales, blocks, dynamic, nested, offset,
    SIZE: tl.constexpr, RUN: tl.constexpr, DOUBLE: tl.constexpr, BACKWARD: tl.constexpr,
    ROWS: tl.constexpr, INNER: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One tile of x Wᵀ, or with BACKWARD of x W, over this program's share of the inner dimension.

    Args:
        x: (rows, inner). inner is W's in, with BACKWARD W's out; columns is the other one.
        sums: (parts, rows, columns) float32, to be added up over the parts.
        share: how much of the inner dimension is for one part, a multiple of INNER.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # (ROWS,)
    edge = tl.program_id(1) * COLUMNS
    column = edge + tl.arange(0, COLUMNS)  # (COLUMNS,)
    part = tl.program_id(2)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for at in range(part * share, min((part + 1) * share, inner), INNER):
        i = at + tl.arange(0, INNER)  # (INNER,)
        there = (row < rows)[:, None] & (i < inner)[None, :]
        a = tl.load(x + row.to(tl.int64)[:, None] * inner + i[None, :], mask=there, other=0)  # (ROWS, INNER)
        # Runs lie along W's in. Forward, that is the inner dimension, and the tile of W has to be turned.
        if BACKWARD:
            start = i.to(tl.int64) * (columns // 2) + edge // 2  # (INNER,)
            length = tl.where(i < inner, (columns - edge) // 2, 0)
        else:
            start = column.to(tl.int64) * (inner // 2) + at // 2  # (COLUMNS,)
            length = tl.where(column < columns, (inner - at) // 2, 0)
        w = weights(start, length, packed, levels, scales, blocks, dynamic, nested, offset, SIZE, RUN, DOUBLE)
        if not BACKWARD:
            w = tl.trans(w)
        # (ROWS, INNER) · (INNER, COLUMNS). "ieee": float32 stays float32, not rounded to the 10 bits of TF32.
        total = tl.dot(a, w.to(a.dtype), total, input_precision="ieee")
    there = (row < rows)[:, None] & (column < columns)[None, :]
    place = (part * rows + row).to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(sums + place, total, mask=there)
