"""RoPE as the Llama layout has it (Su et al. 2021, section 3.2; pairs are channels i and i + d/2)."""

from collections.abc import Iterator

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    batch, heads, tokens, half = draw.sizes(4)
    start = draw.integer(3, 20)
    yield {
        "x": draw.normal(batch, heads, tokens, 2 * half),
        "positions": start + draw.normal(tokens).argsort(),  # not from zero, and in no order
        "theta": float(draw.integer(50, 500)),
    }


EXERCISE = Exercise(
    name="rotate",
    title="RoPE: position as a rotation",
    minutes=14,
    level="stretch",
    statement="""
RoPE writes a token's position $p$ into its queries and keys by turning pairs of channels. With $h = d/2$, channel $i$
is paired with channel $i + h$, and pair $i$ turns by the angle $a_i = p \\cdot \\theta^{-i/h}$:

$$y_i = x_i \\cos a_i - x_{i+h} \\sin a_i \\qquad y_{i+h} = x_{i+h} \\cos a_i + x_i \\sin a_i$$
""",
    code='''
def rotate(x, positions, theta):
    """Turn each pair of channels (i, i + d/2) by its angle.

    x (batch, heads, tokens, d); positions (tokens,), whole numbers; theta: a number.
    Returns (batch, heads, tokens, d).
    """
    ### BEGIN SOLUTION
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half) / half)  # (d/2,)
    angle = positions[:, None] * frequency  # (tokens, d/2)
    cos, sin = angle.cos(), angle.sin()
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "neighbours",
            {
                "x[..., :half], x[..., half:]": "x[..., 0::2], x[..., 1::2]",
                "torch.cat([": "torch.stack([",
                "], -1)": "], -1).flatten(-2)",
            },
            "Neighbours (0, 1), (2, 3) … are paired. Some models do that; in the Llama layout channel i goes with i "
            "+ d/2. "
            "A checkpoint of one kind gives nonsense with the other.",
        ),
        Mistake(
            "backwards",
            {"cos, sin = angle.cos(), angle.sin()": "cos, sin = angle.cos(), -angle.sin()"},
            "The pairs turn the wrong way: the minus sign belongs to the first half.",
        ),
        Mistake(
            "a sign",
            {"first * cos - second * sin": "first * cos + second * sin"},
            "With two plus signs this is no rotation: the length of a pair changes. The first half has a minus.",
        ),
        Mistake(
            "cos and sin",
            {"cos, sin = angle.cos(), angle.sin()": "sin, cos = angle.cos(), angle.sin()"},
            "Cosine and sine have changed places: at position 0 nothing should turn at all.",
        ),
        Mistake(
            "exponent over d",
            {"(-torch.arange(half) / half)": "(-torch.arange(half) / x.shape[-1])"},
            "The frequencies fall too slowly: the exponent of pair i is -i / (d/2), which is -2i / d.",
        ),
        Mistake(
            "rising frequencies",
            {"(-torch.arange(half)": "(torch.arange(half)"},
            "The frequencies rise from pair to pair. The exponent is negative: later pairs turn more slowly.",
        ),
        Mistake(
            "positions ignored",
            {"positions[:, None]": "torch.arange(x.shape[2])[:, None]"},
            "The tokens are counted from zero. Use the positions you are given: with a cache or a prefix they start "
            "later.",
        ),
        Mistake(
            "one frequency",
            {"theta ** (-torch.arange(half) / half)": "torch.ones(half)"},
            "All pairs turn equally fast. Pair i has its own frequency, theta to the power of -i / (d/2).",
        ),
    ),
    accepted=(
        """
def rotate(x, positions, theta):
    d = x.shape[-1]
    inv_freq = 1.0 / theta ** (torch.arange(0, d, 2).float() / d)
    angle = torch.outer(positions.float(), inv_freq)
    angle = torch.cat([angle, angle], -1)
    first, second = x.chunk(2, -1)
    return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()
""",
        """
def rotate(x, positions, theta):
    half = x.shape[-1] // 2
    angle = positions[:, None] * theta ** (-torch.arange(half) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)
""",
        """
def rotate(x, positions, theta):
    y, half = x.clone(), x.shape[-1] // 2
    for t, p in enumerate(positions.tolist()):
        for i in range(half):
            c, s = math.cos(p * theta ** (-i / half)), math.sin(p * theta ** (-i / half))
            y[:, :, t, i] = x[:, :, t, i] * c - x[:, :, t, i + half] * s
            y[:, :, t, i + half] = x[:, :, t, i + half] * c + x[:, :, t, i] * s
    return y
""",
    ),
    hints=(
        "First the angles, (tokens, d/2): one row per position, one column per pair.",
        "frequency = theta ** (-torch.arange(half) / half); angle = positions[:, None] * frequency.",
        "Cut x into x[..., :half] and x[..., half:], apply the two formulas, and join them with torch.cat on the "
        "last axis.",
    ),
    remark="The product of a turned query and a turned key depends only on how far apart they are.",
)
