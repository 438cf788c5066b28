"""Block-wise quantisation by a code book, and back (Dettmers et al. 2022, "8-bit Optimizers", section 2)."""

from collections.abc import Iterator

import torch

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake

BLOCK = 8


def inputs(draw: Draw) -> Iterator[Inputs]:
    for _ in range(2):
        blocks = 2 * draw.integer(1, 3) + 1  # rows of 2 · blocks weights: no row ends where a block does
        inner = torch.rand(5, generator=draw.generator) * 1.8 - 0.9
        weight = draw.normal(4, 2 * blocks)
        weight[0, 0] = -4.0  # the largest magnitude is below zero, and far from the others
        yield {
            "weight": weight,
            "levels": torch.cat([torch.tensor([-1.0, 0.0, 1.0]), inner]).sort().values,
            "block_size": BLOCK,
        }


EXERCISE = Exercise(
    name="round_trip",
    title="There and back: what a weight becomes",
    minutes=12,
    level="core",
    statement="""
What the layer computes with is the weight after quantisation and back. For every block of `block_size` consecutive
weights of the flattened matrix:

1. the scale is the largest magnitude in the block, $c = \\max |w|$;
2. $w / c$ lies between $-1$ and $1$, and moves to the nearest of the `levels`;
3. that level times $c$ is the weight again, nearly.

A block may begin in one row and end in the next. The number of weights is a multiple of the block size.
""",
    code='''
def round_trip(weight, levels, block_size):
    """The weight after block-wise quantisation and dequantisation.

    weight: (out, in); levels: (n,), in increasing order, from -1 to 1; block_size: weights that share a scale.
    Returns a new tensor (out, in).
    """
    ### BEGIN SOLUTION
    blocks = weight.reshape(-1, block_size)
    scale = blocks.abs().amax(1, keepdim=True)  # (blocks, 1)
    scaled = blocks / scale
    codes = (scaled[:, :, None] - levels).abs().argmin(-1)  # (blocks, block_size)
    return (levels[codes] * scale).reshape(weight.shape)
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "one scale for all",
            {"blocks.abs().amax(1, keepdim=True)": "blocks.abs().max()"},
            "One scale serves the whole matrix, so one large weight makes the levels coarse for all the others. Take "
            "the largest magnitude of each block.",
        ),
        Mistake(
            "a scale per row",
            {
                "weight.reshape(-1, block_size)": "weight",
            },
            "The scales belong to the rows of the matrix. Blocks have block_size weights and go on across the ends of "
            "rows: flatten first.",
        ),
        Mistake(
            "blocks of columns",
            {
                "weight.reshape(-1, block_size)": "weight.T.reshape(-1, block_size)",
                "reshape(weight.shape)": "reshape(weight.T.shape).T",
            },
            "The blocks run down the columns. PyTorch stores a matrix row by row, and a block is a run of weights as "
            "they are stored.",
        ),
        Mistake(
            "largest value",
            {"blocks.abs().amax": "blocks.amax"},
            "The scale is the largest value, not the largest magnitude. Where the strongest weight of a block is "
            "negative, w / c then leaves [-1, 1].",
        ),
        Mistake(
            "standard deviation",
            {"blocks.abs().amax(1, keepdim=True)": "blocks.std(1, keepdim=True)"},
            "The scale is the standard deviation. Then the tails lie outside [-1, 1], where there are no levels; the "
            "scale is the largest magnitude.",
        ),
        Mistake(
            "not scaled back",
            {"(levels[codes] * scale)": "levels[codes]"},
            "The levels come back as they are, between -1 and 1. Multiply each by the scale of its block.",
        ),
        Mistake(
            "always down",
            {
                "(scaled[:, :, None] - levels).abs().argmin(-1)": "torch.searchsorted(levels, scaled.contiguous(), "
                "right=True) - 1"
            },
            "Every weight moves to the level below it. The nearest level may be the one above: the border between two "
            "levels is halfway between them.",
        ),
        Mistake(
            "equal distances",
            {"(levels[codes] * scale)": "((codes / (len(levels) - 1) * 2 - 1) * scale)"},
            "The codes are read as if the levels lay at equal distances. Look each code up in levels.",
        ),
        Mistake(
            "codes",
            {"(levels[codes] * scale)": "codes.float()"},
            "These are the codes. A code is a place in levels: look it up, and multiply by the scale.",
        ),
    ),
    accepted=(
        """
def round_trip(weight, levels, block_size):
    flat = weight.flatten()
    pieces = []
    for block in flat.split(block_size):
        c = block.abs().max()
        codes = torch.bucketize(block / c, (levels[1:] + levels[:-1]) / 2)
        pieces.append(levels[codes] * c)
    return torch.cat(pieces).view_as(weight)
""",
        """
def round_trip(weight, levels, block_size):
    blocks = weight.reshape(-1, block_size)
    c = torch.linalg.vector_norm(blocks, float("inf"), dim=1)
    far = torch.cdist((blocks / c[:, None]).reshape(-1, 1), levels[:, None])
    return (levels[far.min(1).indices].view_as(blocks) * c[:, None]).view_as(weight)
""",
        """
def round_trip(weight, levels, block_size):
    out = torch.empty(weight.numel())
    for start in range(0, weight.numel(), block_size):
        block = weight.reshape(-1)[start : start + block_size]
        scale = max(block.max(), -block.min())
        for i, w in enumerate(block):
            out[start + i] = min((level * scale for level in levels), key=lambda v: abs(v - w))
    return out.reshape(weight.shape)
""",
    ),
    hints=(
        "weight.reshape(-1, block_size) puts each block into a row. From there on, all is row by row.",
        "The scale of each row: .abs().amax(1, keepdim=True), which stays (blocks, 1) and so divides its own row.",
        "The nearest level: (scaled[:, :, None] - levels).abs().argmin(-1) gives its place; levels[place] its value.",
    ),
    remark="Only codes and scales are stored: with 16 levels and blocks of 64, that is 4 + 32/64 bits per weight.",
)
