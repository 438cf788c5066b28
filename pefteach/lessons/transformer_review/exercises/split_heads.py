"""From one wide vector per token to several heads (Vaswani et al. 2017, section 3.2.2)."""

from collections.abc import Iterator

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    for _ in range(2):
        batch, tokens, heads, d = draw.sizes(4)
        yield {"x": draw.normal(batch, tokens, heads * d), "heads": heads}


EXERCISE = Exercise(
    name="split_heads",
    title="One wide vector becomes several heads",
    minutes=6,
    level="warm-up",
    statement="""
A projection gives every token one vector of `heads * d` numbers. Attention wants each head on its own: the first `d`
numbers belong to head 0, the next `d` to head 1, and so on.
""",
    code='''
def split_heads(x, heads):
    """Give every head its own axis.

    x (batch, tokens, heads * d); heads: a whole number.
    Returns (batch, heads, tokens, d).
    """
    ### BEGIN SOLUTION
    batch, tokens, width = x.shape
    return x.view(batch, tokens, heads, width // heads).transpose(1, 2)
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "not moved",
            {".transpose(1, 2)": ""},
            "The heads have an axis, but it comes after the tokens: (batch, tokens, heads, d). Exchange axes 1 and 2.",
        ),
        Mistake(
            "straight to the shape",
            {"tokens, heads, width // heads).transpose(1, 2)": "heads, tokens, width // heads)"},
            "The shape is right and the content isn't: view and reshape keep the order in memory, so numbers of "
            "different "
            "tokens get mixed. Split the last axis first, then move the new one.",
        ),
        Mistake(
            "sizes swapped",
            {"heads, width // heads)": "width // heads, heads)"},
            "Number and size of the heads have changed places: the last axis splits into (heads, d), in this order.",
        ),
        Mistake(
            "dealt out",
            {"heads, width // heads).transpose(1, 2)": "width // heads, heads).permute(0, 3, 1, 2)"},
            "Every head gets each heads-th channel. The first d channels belong together and make up head 0.",
        ),
        Mistake(
            "wrong axes",
            {".transpose(1, 2)": ".transpose(2, 3)"},
            "The last two axes are exchanged: (batch, tokens, d, heads). It is tokens and heads that change places.",
        ),
        Mistake(
            "heads in the batch",
            {".transpose(1, 2)": ".transpose(1, 2).flatten(0, 1)"},
            "Batch and heads have become one axis. Some libraries do that; here the heads keep their own.",
        ),
        Mistake(
            "batch moved",
            {".transpose(1, 2)": ".transpose(0, 2)"},
            "Batch and heads have changed places. The batch stays in front.",
        ),
    ),
    accepted=(
        """
def split_heads(x, heads):
    return torch.stack(x.chunk(heads, dim=-1), dim=1)
""",
        """
def split_heads(x, heads):
    return x.unflatten(-1, (heads, -1)).permute(0, 2, 1, 3).contiguous()
""",
        """
def split_heads(x, heads):
    B, T, D = x.size()
    d = D // heads
    out = torch.empty(B, heads, T, d)
    for h in range(heads):
        out[:, h] = x[:, :, h * d : (h + 1) * d]
    return out
""",
    ),
    hints=(
        "Two steps: split the last axis in two, then bring the axis of the heads forward.",
        "x.view(batch, tokens, heads, d) splits without moving anything; transpose(1, 2) moves.",
    ),
    remark="The way back is transpose first, then reshape: the same two steps in reverse.",
)
