"""How many numbers LoRA trains: r (in + out) per adapted layer."""

from collections.abc import Iterator

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    for count in (1, 3):
        layers = [draw.sizes(2, 12, 40) for _ in range(count)]
        yield {"layers": layers, "rank": draw.integer(3, 5)}


EXERCISE = Exercise(
    name="lora_parameters",
    title="The price: how many numbers train",
    minutes=5,
    level="warm-up",
    statement="""
Every adapted layer gets its own pair `lora_A` (rank, in) and `lora_B` (out, rank). How many numbers is that in all?
""",
    code='''
def lora_parameters(layers, rank):
    """The number of parameters that train when every layer gets LoRA of this rank.

    layers: a list of (in, out) pairs; rank: a whole number.
    Returns a whole number.
    """
    ### BEGIN SOLUTION
    return sum(rank * (fan_in + fan_out) for fan_in, fan_out in layers)
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "product",
            {"(fan_in + fan_out)": "fan_in * fan_out"},
            "in · out is the size of the full matrix. A has rank · in numbers and B has out · rank: add the two.",
        ),
        Mistake(
            "square layers",
            {"(fan_in + fan_out)": "2 * fan_in"},
            "This takes every layer for a square one. The value projection, for example, often has fewer outputs than "
            "inputs: use in + out.",
        ),
        Mistake(
            "A only",
            {"(fan_in + fan_out)": "fan_in"},
            "Only lora_A is counted. lora_B, (out, rank), trains as well.",
        ),
        Mistake(
            "B only",
            {"(fan_in + fan_out)": "fan_out"},
            "Only lora_B is counted. It starts at zero, and lora_A, (rank, in), trains all the same.",
        ),
        Mistake(
            "frozen too",
            {"rank * (fan_in + fan_out)": "rank * (fan_in + fan_out) + fan_in * fan_out"},
            "The frozen weights are counted with the rest. They are stored, but they do not train.",
        ),
        Mistake(
            "one pair for all",
            {"in layers)": "in layers[:1])"},
            "Only the first layer is counted. Layers do not share a pair: each has its own A and B.",
        ),
        Mistake(
            "rank twice",
            {"rank * (": "rank**2 * ("},
            "The rank is counted twice. It is one side of each matrix, so it appears once per matrix.",
        ),
    ),
    accepted=(
        """
def lora_parameters(layers, rank):
    total = 0
    for fan_in, fan_out in layers:
        total += rank * fan_in + fan_out * rank
    return total
""",
        """
def lora_parameters(layers, rank):
    return rank * sum(map(sum, layers))
""",
        """
def lora_parameters(layers, rank):
    shapes = [(rank, layer[0]) for layer in layers] + [(layer[1], rank) for layer in layers]
    return sum(torch.empty(shape).numel() for shape in shapes)
""",
    ),
    hints=(
        "Take one layer first. How many numbers are in a matrix of shape (rank, in)? And in one of shape (out, rank)?",
        "rank · in + out · rank = rank · (in + out) for one layer; add over all layers.",
    ),
    remark="It grows with in + out where the full matrix grows with in · out: the larger the layer, the larger the "
    "saving.",
)
