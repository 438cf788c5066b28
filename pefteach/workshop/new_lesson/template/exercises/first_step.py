"""TODO: one exercise. A set has four to six of these files, for 30 to 60 minutes together."""

from collections.abc import Iterator

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    for _ in range(2):
        batch, fan_in, fan_out = draw.sizes(3)  # all different, so that a transposed matrix shows
        yield {"x": draw.normal(batch, fan_in), "weight": draw.normal(fan_out, fan_in)}


EXERCISE = Exercise(
    name="template_step",
    title="TODO: a title",
    minutes=8,
    level="warm-up",  # or "core", or "stretch"
    statement="""
TODO: what to write, with the formula. This example asks for $y = W x$, with one example per row of `x`.
""",
    code='''
def template_step(x, weight):
    """TODO: what it computes, the shapes of what it takes, and what it returns.

    x (batch, in), weight (out, in).
    Returns (batch, out).
    """
    ### BEGIN SOLUTION
    return x @ weight.T
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(  # at least five, each a change of the right answer
        Mistake("not transposed", {"weight.T": "weight"}, "TODO: weight is (out, in): turn it round to multiply."),
        Mistake("the other way round", {"x @ weight.T": "weight @ x.T"}, "TODO: one example per row, not per column."),
        Mistake("no sign", {"x @ weight.T": "(x @ weight.T).abs()"}, "TODO: the sign is lost."),
        Mistake("a mean", {"weight.T": "weight.T / weight.shape[1]"}, "TODO: a sum over the inputs, not their mean."),
        Mistake("first row only", {"x @": "x[:1] @"}, "TODO: every row has its own result, not only the first."),
    ),
    accepted=(  # at least three right answers that are written in other ways
        "def template_step(x, weight):\n    return F.linear(x, weight)\n",
        "def template_step(x, weight):\n    return torch.einsum('bi,oi->bo', x, weight)\n",
        "def template_step(x, weight):\n    return (weight @ x.T).T\n",
    ),
    hints=(
        "TODO: a nudge. Which shapes does the matrix product take?",
        "TODO: almost the answer. Multiply x by the transposed weight.",
    ),
    remark="TODO: what the right answer is worth knowing for.",
)
