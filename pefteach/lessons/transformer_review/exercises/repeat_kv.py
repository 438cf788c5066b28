"""Grouped-query attention: several query heads share one key/value head (Ainslie et al. 2023)."""

from collections.abc import Iterator

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    for _ in range(2):
        batch, groups, tokens, d, times = draw.sizes(5)
        yield {"kv": draw.normal(batch, groups, tokens, d), "times": times}


EXERCISE = Exercise(
    name="repeat_kv",
    title="Query heads that share keys and values",
    minutes=6,
    level="core",
    statement="""
Modern decoders have fewer key/value heads than query heads. With `times` query heads per key/value head, query heads
0 … times − 1 use key/value head 0, the next `times` use head 1, and so on. Repeat the key/value heads so that each
query head finds its own at its own index.
""",
    code='''
def repeat_kv(kv, times):
    """Repeat every key/value head for the query heads that share it.

    kv (batch, groups, tokens, d); times: a whole number.
    Returns (batch, groups * times, tokens, d).
    """
    ### BEGIN SOLUTION
    return kv.repeat_interleave(times, dim=1)
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "in turn",
            {"kv.repeat_interleave(times, dim=1)": "kv.repeat(1, times, 1, 1)"},
            "The heads come in turn: 0, 1, …, 0, 1, … Query heads that share a head stand side by side, so the order "
            "is "
            "0, 0, …, 1, 1, …",
        ),
        Mistake(
            "tokens repeated",
            {"dim=1": "dim=2"},
            "The tokens are repeated. It is the heads, axis 1, that there are too few of.",
        ),
        Mistake(
            "batch repeated",
            {"dim=1": "dim=0"},
            "The batch is repeated. It is the heads, axis 1, that there are too few of.",
        ),
        Mistake(
            "no axis named",
            {"(times, dim=1)": "(times)"},
            "Without an axis, repeat_interleave flattens everything first. Name the axis of the heads.",
        ),
        Mistake(
            "not merged",
            {"kv.repeat_interleave(times, dim=1)": "kv[:, :, None].expand(-1, -1, times, -1, -1)"},
            "There are five axes: the repeated heads still have one of their own. Merge it with the axis of the heads.",
        ),
        Mistake(
            "once too often",
            {"(times,": "(times + 1,"},
            "Every head is there once too often: `times` counts all copies, the original too.",
        ),
    ),
    accepted=(
        """
def repeat_kv(kv, times):
    B, G, T, d = kv.shape
    return kv[:, :, None].expand(B, G, times, T, d).reshape(B, G * times, T, d)
""",
        """
def repeat_kv(kv, times):
    return kv[:, torch.arange(kv.shape[1] * times) // times]
""",
        """
def repeat_kv(kv, times):
    return torch.cat([kv[:, g : g + 1] for g in range(kv.shape[1]) for _ in range(times)], dim=1)
""",
    ),
    hints=(
        "Which key/value head does query head h use? h // times.",
        "torch has both repeat (0, 1, 0, 1) and repeat_interleave (0, 0, 1, 1). Mind the axis.",
    ),
    remark="The shapes of the two orders are equal, so only the values can tell: that is why such slips survive.",
)
