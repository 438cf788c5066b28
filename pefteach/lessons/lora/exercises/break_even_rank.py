"""Low rank is a condition, not a property: r (in + out) < in · out."""

from collections.abc import Iterator

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    k = draw.integer(2, 9)
    yield {"fan_in": 2 * k, "fan_out": 2 * k}  # k (in + out) is exactly in · out
    yield {"fan_in": 6 * k, "fan_out": 3 * k}
    small, large = sorted(draw.sizes(2, 50, 99))
    yield {"fan_in": small, "fan_out": 3 * large}


EXERCISE = Exercise(
    name="break_even_rank",
    title="Up to which rank does LoRA save anything?",
    minutes=6,
    level="stretch",
    statement="""
"Low-rank" does not by itself mean "small". Find the largest rank at which LoRA trains *fewer* numbers than the full
matrix has: the largest whole $r$ with $r\\,(\\text{in} + \\text{out}) < \\text{in} \\cdot \\text{out}$.
""",
    code='''
def break_even_rank(fan_in, fan_out):
    """The largest rank at which LoRA trains fewer numbers than a (fan_out, fan_in) matrix has.

    Returns a whole number.
    """
    ### BEGIN SOLUTION
    return (fan_in * fan_out - 1) // (fan_in + fan_out)
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "ties kept",
            {"(fan_in * fan_out - 1)": "fan_in * fan_out"},
            "Nearly: where in · out divides evenly, this rank trains exactly as many numbers as the full matrix. "
            "The question asks for fewer.",
        ),
        Mistake(
            "one too many",
            {"(fan_in * fan_out - 1) // (fan_in + fan_out)": "(fan_in * fan_out - 1) // (fan_in + fan_out) + 1"},
            "That is the first rank that no longer saves anything. The one asked for is just below it.",
        ),
        Mistake(
            "fraction",
            {"(fan_in * fan_out - 1) // (fan_in + fan_out)": "fan_in * fan_out / (fan_in + fan_out)"},
            "That is the point of break-even itself, fraction and all. The largest whole rank below it is asked for.",
        ),
        Mistake(
            "any low rank",
            {"(fan_in * fan_out - 1) // (fan_in + fan_out)": "min(fan_in, fan_out) - 1"},
            "Any rank below min(in, out) is low rank, but far from all of those are small: at min(in, out) the two "
            "thin "
            "matrices together are larger than the full one.",
        ),
        Mistake(
            "full rank",
            {"(fan_in * fan_out - 1) // (fan_in + fan_out)": "min(fan_in, fan_out)"},
            "min(in, out) is the largest rank a matrix can have. LoRA stops saving long before it.",
        ),
        Mistake(
            "half",
            {"(fan_in * fan_out - 1) // (fan_in + fan_out)": "(min(fan_in, fan_out) - 1) // 2"},
            "Half the smaller side is the answer for square matrices. In general compare r · (in + out) with in · out.",
        ),
        Mistake(
            "root",
            {"(fan_in * fan_out - 1) // (fan_in + fan_out)": "math.isqrt(fan_in * fan_out)"},
            "The square root has no part in it: solve r · (in + out) < in · out for r.",
        ),
    ),
    accepted=(
        """
def break_even_rank(fan_in, fan_out):
    rank = 0
    while (rank + 1) * (fan_in + fan_out) < fan_in * fan_out:
        rank += 1
    return rank
""",
        """
def break_even_rank(fan_in, fan_out):
    return math.ceil(fan_in * fan_out / (fan_in + fan_out)) - 1
""",
        """
def break_even_rank(fan_in, fan_out):
    saves = [r for r in range(min(fan_in, fan_out)) if r * fan_in + r * fan_out < fan_in * fan_out]
    return max(saves)
""",
    ),
    hints=(
        "Start from the condition: r · (in + out) < in · out. Solve it for r.",
        "r < in · out / (in + out). What is the largest whole number below a bound that may be whole itself?",
        "For whole a and b, (a - 1) // b is the largest whole number below a / b. A loop is just as right.",
    ),
    remark="For a square matrix it is just under half its side; a rank of 8 on a 4096 × 4096 matrix is far below it.",
)
