"""Arithmetic of one training token: 6 N for full fine-tuning, nearly 4 N when most weights are frozen."""

from collections.abc import Iterator

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    for _ in range(2):
        yield {"frozen": 1000 * draw.integer(500, 900), "trainable": 1000 * draw.integer(10, 90)}


EXERCISE = Exercise(
    name="flops_per_token",
    title="What freezing saves in arithmetic",
    minutes=6,
    level="stretch",
    statement="""
A weight in a matrix product costs one multiplication and one addition, 2 FLOPs, each time it is used. For one training
token it is used up to three times:

- in the **forward** pass,
- in the backward pass for the gradient of the layer's **input** (all layers need it, to pass it on),
- in the backward pass for the gradient of the **weight** itself (only if it trains).

Leave attention scores out, and suppose that something trains in the first layer already.
""",
    code='''
def flops_per_token(frozen, trainable):
    """FLOPs for one training token.

    frozen, trainable: numbers of weights in matrix products.
    Returns a number.
    """
    ### BEGIN SOLUTION
    forward = 2 * (frozen + trainable)
    for_inputs = 2 * (frozen + trainable)
    for_weights = 2 * trainable
    return forward + for_inputs + for_weights
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "as if all trained",
            {"for_weights = 2 * trainable": "for_weights = 2 * (frozen + trainable)"},
            "That is the price of full fine-tuning, 6 for each weight. A frozen weight needs no gradient of its own.",
        ),
        Mistake(
            "frozen is free",
            {"2 * (frozen + trainable)": "2 * trainable"},
            "Only the trainable weights are counted. The frozen ones still do their work, forward and backward: a "
            "thousandth of the parameters does not mean a thousandth of the time.",
        ),
        Mistake(
            "frozen used once",
            {"for_inputs = 2 * (frozen + trainable)": "for_inputs = 2 * trainable"},
            "The frozen weights are used once only. They take part in the forward pass, and again on the way back: the "
            "backward pass has to go through them, to reach what trains below.",
        ),
        Mistake(
            "forward only",
            {"return forward + for_inputs + for_weights": "return forward"},
            "That is the forward pass alone, the price of using the model. Training goes back through it as well.",
        ),
        Mistake(
            "weight gradients forgotten",
            {"for_inputs + for_weights": "for_inputs"},
            "The gradients of the weights that train are missing.",
        ),
        Mistake(
            "one per weight",
            {"2 *": "1 *"},
            "A multiplication and an addition are counted as one. By the usual count they are two FLOPs.",
        ),
    ),
    accepted=(
        """
def flops_per_token(frozen, trainable):
    return 4 * frozen + 6 * trainable
""",
        """
def flops_per_token(frozen, trainable):
    full = 6 * (frozen + trainable)
    return full - 2 * frozen
""",
        """
def flops_per_token(frozen, trainable):
    uses = {"frozen": 2, "trainable": 3}
    return float(sum(2 * uses[kind] * n for kind, n in (("frozen", frozen), ("trainable", trainable))))
""",
    ),
    hints=(
        "Write one line for each of the three uses, and ask each time: which weights take part?",
        "Forward: all. For the inputs: all. For the weights: only those that train. Each use costs 2.",
    ),
    remark="So freezing nearly everything saves at most a third of the arithmetic: 4 instead of 6 for each weight.",
)
