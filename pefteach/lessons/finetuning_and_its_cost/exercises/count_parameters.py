"""How many parameters there are, and how many train."""

from collections.abc import Iterator
from typing import Any

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake
from pefteach.exercises.subject import Subject


def inputs(draw: Draw) -> Iterator[Inputs]:
    for tied in (True, False):
        yield {"blocks": draw.integer(1, 4), "tied": tied, "trains": ("bias", "mlp", "norm")[draw.integer(0, 2)]}


def observe(subject: Subject, name: str, case: Inputs) -> Iterator[tuple[str, Any]]:
    model = subject.build("pefteach.lessons.kit.models:tiny_decoder", case)
    what = f"{name}(model), a decoder of {case['blocks']} blocks where {case['trains']!r} trains"
    yield what + (", output tied to the embedding" if case["tied"] else ""), subject.call(name, {"model": model})


EXERCISE = Exercise(
    name="count_parameters",
    title="How many parameters, and how many of them train?",
    minutes=6,
    level="warm-up",
    statement="""
Count the numbers in a model's parameters. Many models tie the output layer to the embedding: the two share one tensor,
which then counts once.
""",
    code='''
def count_parameters(model):
    """Count the parameters of an nn.Module.

    Returns two whole numbers: all of them, and those that require gradients.
    """
    ### BEGIN SOLUTION
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return total, trainable
    ### END SOLUTION
''',
    inputs=inputs,
    observe=observe,
    mistakes=(
        Mistake(
            "tied twice",
            {"model.parameters()": "model.state_dict(keep_vars=True).values()"},
            "The tensor shared by embedding and output layer is counted twice. state_dict() lists it under both names; "
            "model.parameters() gives it once.",
        ),
        Mistake(
            "tensors",
            {"p.numel()": "1"},
            "These are the numbers of tensors. Each tensor p holds p.numel() parameters.",
        ),
        Mistake(
            "bytes",
            {"p.numel()": "p.nbytes"},
            "These are bytes: four for every float32 number. Count the numbers.",
        ),
        Mistake(
            "first axis",
            {"p.numel()": "len(p)"},
            "len(p) is only the size of the first axis. p.numel() is the product of all.",
        ),
        Mistake(
            "matrices only",
            {
                "model.parameters())": "model.parameters() if p.ndim > 1)",
                "p.requires_grad": "p.requires_grad and p.ndim > 1",
            },
            "Biases and norm scales are left out. They are parameters as well, and in BitFit they are all that trains.",
        ),
        Mistake(
            "total of what trains",
            {"model.parameters())": "model.parameters() if p.requires_grad)"},
            "The total leaves out what is frozen. Frozen parameters still have to be stored: count all of them.",
        ),
        Mistake(
            "frozen ones",
            {"if p.requires_grad": "if not p.requires_grad"},
            "The second number counts the frozen parameters. Those that train have requires_grad=True.",
        ),
        Mistake(
            "order",
            {"return total, trainable": "return trainable, total"},
            "The two numbers have changed places: all of them first, then those that train.",
        ),
    ),
    accepted=(
        """
def count_parameters(model):
    total = trainable = 0
    for parameter in model.parameters():
        total += parameter.numel()
        if parameter.requires_grad:
            trainable += parameter.numel()
    return total, trainable
""",
        """
def count_parameters(model):
    unique = {id(p): p for m in model.modules() for p in m._parameters.values() if p is not None}
    sizes = [(math.prod(p.shape), p.requires_grad) for p in unique.values()]
    return [sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)]
""",
        """
def count_parameters(model):
    numbers = torch.tensor([[p.numel(), p.numel() * p.requires_grad] for _, p in model.named_parameters()])
    return tuple(numbers.sum(0))
""",
    ),
    hints=(
        "model.parameters() gives every parameter tensor once; tensor.numel() is how many numbers it holds.",
        "Write the second count like the first, with `if p.requires_grad`.",
    ),
    remark="Counting through state_dict() is how tied models come to be reported larger than they are.",
)
