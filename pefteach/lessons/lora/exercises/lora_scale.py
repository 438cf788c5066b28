"""s = alpha / r for LoRA, alpha / √r for rsLoRA (Kalajdzievski 2023, section 3)."""

from collections.abc import Iterator

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    for rslora in (False, True):
        rank = draw.integer(2, 3) * 2 + 1  # 5 or 7: the root is no whole number
        yield {"rank": rank, "alpha": float(rank + draw.integer(2, 9)), "rslora": rslora}


EXERCISE = Exercise(
    name="lora_scale",
    title="Two scales: LoRA and rsLoRA",
    minutes=4,
    level="warm-up",
    statement="""
LoRA scales its update by $\\alpha / r$. With a large rank that makes the update shrink; rank-stabilised LoRA (rsLoRA)
scales by $\\alpha / \\sqrt{r}$, which keeps its size steady as $r$ grows.
""",
    code='''
def lora_scale(rank, alpha, rslora):
    """The number that multiplies B A x.

    rank: a whole number of at least 1; alpha: a number; rslora: whether to use the rank-stabilised scale.
    Returns a number.
    """
    ### BEGIN SOLUTION
    return alpha / (math.sqrt(rank) if rslora else rank)
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "flag ignored",
            {"(math.sqrt(rank) if rslora else rank)": "rank"},
            "Both variants get alpha / rank. With rslora=True the rank goes under a square root.",
        ),
        Mistake(
            "always the root",
            {"(math.sqrt(rank) if rslora else rank)": "math.sqrt(rank)"},
            "Both variants get alpha / √rank. Plain LoRA (rslora=False) divides by the rank itself.",
        ),
        Mistake(
            "swapped",
            {"if rslora": "if not rslora"},
            "The two are the wrong way round: the square root belongs to rslora=True.",
        ),
        Mistake(
            "root of all",
            {"alpha / (math.sqrt(rank) if rslora else rank)": "math.sqrt(alpha / rank) if rslora else alpha / rank"},
            "In rsLoRA only the rank is under the root: alpha / √rank, not √(alpha / rank).",
        ),
        Mistake(
            "no alpha",
            {"alpha /": "1 /"},
            "alpha is missing: it is the numerator of both scales.",
        ),
        Mistake(
            "multiplied",
            {"alpha /": "alpha *"},
            "The rank multiplies where it should divide: more rank must not mean a larger scale.",
        ),
        Mistake(
            "whole division",
            {"alpha /": "alpha //"},
            "// drops the fraction. Use / : the scale is seldom a whole number.",
        ),
    ),
    accepted=(
        """
def lora_scale(rank, alpha, rslora):
    if rslora:
        return alpha / rank**0.5
    return alpha / rank
""",
        """
def lora_scale(rank, alpha, rslora):
    return alpha * rank ** (-0.5 if rslora else -1.0)
""",
        """
def lora_scale(rank, alpha, rslora):
    divisor = torch.tensor(float(rank))
    return alpha / (divisor.sqrt() if rslora else divisor)
""",
    ),
    hints=(
        "Both scales have alpha above the line. Only what stands below it changes.",
        "Below the line: rank for LoRA, math.sqrt(rank) for rsLoRA.",
    ),
    remark="At rank 1 the two are equal, so a test at rank 1 can't tell them apart. That has hidden this bug before.",
)
