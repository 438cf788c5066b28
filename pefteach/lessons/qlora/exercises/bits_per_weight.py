"""What a weight takes in storage, its share of the scales included (Dettmers et al. 2023, "QLoRA", section 3)."""

from collections.abc import Iterator

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    for double in (False, True):
        # Blocks so small that a forgotten share of the second scale is seen.
        yield {"bits": draw.integer(2, 4), "block_size": 2 * draw.integer(2, 5), "double": double}


EXERCISE = Exercise(
    name="bits_per_weight",
    title="The price: bits per weight",
    minutes=6,
    level="warm-up",
    statement="""
A code takes `bits` bits. On top of it comes a scale for every block of `block_size` weights, a float32 of 32 bits.

*Double quantisation* stores each scale in 8 bits, and adds a float32 for every 256 *scales*. How many bits is that for
one weight, on average?
""",
    code='''
def bits_per_weight(bits, block_size, double):
    """Bits of storage for one weight, its share of the scales included.

    bits: of a code; block_size: weights per scale; double: whether the scales are quantised as well.
    Returns a number.
    """
    ### BEGIN SOLUTION
    if double:
        return bits + 8 / block_size + 32 / (block_size * 256)
    return bits + 32 / block_size
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "codes only",
            {" + 8 / block_size + 32 / (block_size * 256)": "", " + 32 / block_size": ""},
            "Only the codes are counted. Without the scales nobody could turn them back into weights: each weight "
            "pays its share of one.",
        ),
        Mistake(
            "a scale per weight",
            {"32 / block_size": "32", "8 / block_size": "8", "32 / (block_size * 256)": "32 / 256"},
            "Every weight pays for a whole scale. A block shares one: divide its bits by block_size.",
        ),
        Mistake(
            "always 64",
            {
                "32 / block_size": "32 / 64",
                "8 / block_size + 32 / (block_size * 256)": "8 / 64 + 32 / (64 * 256)",
            },
            "The block size is taken to be 64, whatever is asked for. Use block_size.",
        ),
        Mistake(
            "sixteen bits",
            {"32 / block_size": "16 / block_size"},
            "Without double quantisation the scale is counted with 16 bits. It is a float32, which has 32.",
        ),
        Mistake(
            "double ignored",
            {"bits + 8 / block_size + 32 / (block_size * 256)": "bits + 32 / block_size"},
            "With double=True the scales still cost 32 bits. They are stored in 8, and one float32 comes for every "
            "256 of them.",
        ),
        Mistake(
            "no second scale",
            {" + 32 / (block_size * 256)": ""},
            "With double=True the scales of the scales are missing: one float32 for every 256 scales.",
        ),
        Mistake(
            "256 weights",
            {"32 / (block_size * 256)": "32 / 256"},
            "The second float32 serves 256 scales, and each of these a block. That is 256 · block_size weights.",
        ),
        Mistake(
            "both kinds",
            {"bits + 8 / block_size": "bits + 32 / block_size + 8 / block_size"},
            "With double=True the scales are stored twice, in 32 bits and in 8. Their 8 bits take the place of the 32.",
        ),
    ),
    accepted=(
        """
def bits_per_weight(bits, block_size, double):
    scale = 8 + 32 / 256 if double else 32
    return bits + scale / block_size
""",
        """
def bits_per_weight(bits, block_size, double):
    weights = 256 * block_size  # share one second scale
    total = bits * weights + (256 * 8 + 32 if double else 256 * 32)
    return total / weights
""",
        """
def bits_per_weight(bits, block_size, double):
    share = torch.tensor(1.0 / block_size, dtype=torch.float64)
    return bits + share * (8.125 if double else 32.0)
""",
    ),
    hints=(
        "Take one block: how many bits do its codes take, and how many its scale? Then divide by the weights in it.",
        "Without double quantisation: bits + 32 / block_size.",
        "With it, the 32 becomes 8 + 32 / 256: a scale in 8 bits, and its share of a float32.",
    ),
    remark="NF4 in blocks of 64 takes 4.5 bits, or about 4.13 with double quantisation: not quite a quarter of 16.",
)
