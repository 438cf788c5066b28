"""W = W0 + s · B A, in the layer's own layout."""

from collections.abc import Iterator

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    for conv1d in (False, True):
        rank, fan_out, fan_in = sorted(draw.sizes(3))
        yield {
            "weight": draw.normal(*((fan_in, fan_out) if conv1d else (fan_out, fan_in))),
            "lora_A": draw.normal(rank, fan_in),
            "lora_B": draw.normal(fan_out, rank),
            "alpha": rank * draw.integer(2, 4) + 1,
            "conv1d": conv1d,
        }


EXERCISE = Exercise(
    name="merge",
    title="Merge: the update becomes part of the weight",
    minutes=8,
    level="core",
    statement="""
After training, $W = W_0 + s \\cdot B A$ gives one weight that does the work of both paths, at no extra cost.

Two things to look out for: GPT-2's `Conv1D` stores its weight as (in, out), the other way round; and whoever calls you
may want $W_0$ back later, so leave it untouched.
""",
    code='''
def merge(weight, lora_A, lora_B, alpha, conv1d):
    """The weight that does what layer and update do together. The arguments stay as they are.

    weight (out, in), or (in, out) if conv1d; lora_A (rank, in), lora_B (out, rank); alpha: a number.
    Returns a new tensor of the weight's shape.
    """
    ### BEGIN SOLUTION
    rank = lora_A.shape[0]
    delta = alpha / rank * (lora_B @ lora_A)  # (out, in)
    return weight + (delta.T if conv1d else delta)
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "no scale",
            {"alpha / rank * (lora_B @ lora_A)": "lora_B @ lora_A"},
            "The scale is missing, so the merged layer is not the one that was trained: multiply B A by alpha / rank.",
        ),
        Mistake(
            "scaled twice",
            {"alpha / rank * (": "(alpha / rank) ** 2 * ("},
            "The scale is applied twice. alpha / rank multiplies the product B A once, not each of its factors.",
        ),
        Mistake(
            "in place",
            {
                "return weight + (delta.T if conv1d else delta)": "weight += delta.T if conv1d else delta\n"
                "    return weight"
            },
            "The result is right, but the weight you were given was changed (weight += …). Return a new tensor, so "
            "that "
            "the base can be had back.",
        ),
        Mistake(
            "layout ignored",
            {"(delta.T if conv1d else delta)": "delta"},
            "This works for nn.Linear only. With conv1d=True the weight is (in, out), so the update must be turned "
            "round.",
        ),
        Mistake(
            "always transposed",
            {"(delta.T if conv1d else delta)": "delta.T"},
            "The update is transposed for every layer. Only Conv1D stores (in, out); B A is (out, in) already, as in "
            "nn.Linear.",
        ),
        Mistake(
            "A times B",
            {"(lora_B @ lora_A)": "(lora_A @ lora_B)"},
            "A @ B does not fit: (rank, in) times (out, rank). x meets A first, so the product is B @ A, (out, in).",
        ),
        Mistake(
            "update alone",
            {"weight + (": "("},
            "This returns the update alone. The merged weight is the frozen weight plus the update.",
        ),
        Mistake(
            "all scaled",
            {
                "alpha / rank * (lora_B": "(lora_B",
                "weight + (delta.T if conv1d else delta)": "alpha / rank * (weight + (delta.T if conv1d else delta))",
            },
            "The frozen weight is scaled too. Only B A is multiplied by alpha / rank.",
        ),
        Mistake(
            "subtracted",
            {"weight + (": "weight - ("},
            "The update is subtracted: that is how one unmerges.",
        ),
    ),
    accepted=(
        """
def merge(weight, lora_A, lora_B, alpha, conv1d):
    merged = weight.clone()
    merged += (alpha / len(lora_A) * lora_B @ lora_A).t() if conv1d else alpha / len(lora_A) * lora_B @ lora_A
    return merged
""",
        """
def merge(weight, lora_A, lora_B, alpha, conv1d):
    scale = alpha / lora_B.size(1)
    if conv1d:
        return torch.addmm(weight, lora_A.T, lora_B.T, alpha=scale)
    return torch.addmm(weight, lora_B, lora_A, alpha=scale)
""",
        """
def merge(weight, lora_A, lora_B, alpha, conv1d):
    w = weight.T if conv1d else weight
    w = w + torch.einsum("or,ri->oi", lora_B, lora_A) * alpha / lora_A.shape[0]
    return w.T.contiguous() if conv1d else w
""",
    ),
    hints=(
        "First the update as a matrix, (out, in): which order of lora_A and lora_B gives that shape?",
        "delta = alpha / rank * (lora_B @ lora_A). For a Conv1D it has to become (in, out).",
        "weight + delta makes a new tensor; weight += delta changes the caller's.",
    ),
    remark="To unmerge, keep a copy of W0: subtracting the update again does not give every bit back.",
)
