"""h = W0 x + b + (alpha / r) B A x  (Hu et al. 2021, section 4.1)."""

from collections.abc import Iterator

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    for _ in range(2):
        rank, fan_out, fan_in = sorted(draw.sizes(3))
        yield {
            "x": draw.normal(rank + 1, fan_in),  # as many rows as the rank would hide a mistake
            "weight": draw.normal(fan_out, fan_in),
            "bias": draw.normal(fan_out),
            "lora_A": draw.normal(rank, fan_in),
            "lora_B": draw.normal(fan_out, rank),
            "alpha": rank * draw.integer(2, 4) + 1,
        }


EXERCISE = Exercise(
    name="lora_forward",
    title="A linear layer with LoRA beside it",
    minutes=8,
    level="warm-up",
    statement="""
The frozen layer answers $W_0 x + b$. LoRA adds a second, thin path:

$$h = W_0\\,x + b + s \\cdot B A\\,x \\qquad s = \\frac{\\alpha}{r}$$

`x` holds one example per row, so $A x$ is written `x @ lora_A.T`.
""",
    code='''
def lora_forward(x, weight, bias, lora_A, lora_B, alpha):
    """A linear layer with a low-rank update beside it.

    x (batch, in), weight (out, in), bias (out,), lora_A (rank, in), lora_B (out, rank); alpha is a number.
    Returns (batch, out).
    """
    ### BEGIN SOLUTION
    rank = lora_A.shape[0]
    frozen = x @ weight.T + bias  # (batch, out)
    update = x @ lora_A.T @ lora_B.T  # (batch, rank), then (batch, out)
    return frozen + alpha / rank * update
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "no scale",
            {"alpha / rank * update": "update"},
            "The update is added as it is. LoRA multiplies it by s = alpha / rank first.",
        ),
        Mistake(
            "alpha alone",
            {"alpha / rank": "alpha"},
            "The update is scaled by alpha. Divide by the rank too, so that a larger rank does not mean a larger "
            "update.",
        ),
        Mistake(
            "alpha times rank",
            {"alpha / rank": "alpha * rank"},
            "The update is multiplied by the rank where it should be divided by it: s = alpha / rank.",
        ),
        Mistake(
            "one over rank",
            {"alpha / rank": "1 / rank"},
            "The scale is 1 / rank: alpha is missing from it. Many write-ups leave it out; then the update is too "
            "small.",
        ),
        Mistake(
            "square root",
            {"alpha / rank": "alpha / math.sqrt(rank)"},
            "The scale is alpha / √rank. That is rsLoRA, a later variant; plain LoRA divides by the rank itself.",
        ),
        Mistake(
            "wrong size",
            {"lora_A.shape[0]": "lora_A.shape[1]"},
            "The scale divides by the input size. The rank is the first size of lora_A, which is (rank, in).",
        ),
        Mistake(
            "all scaled",
            {"frozen + alpha / rank * update": "alpha / rank * (frozen + update)"},
            "The frozen path is scaled as well. That changes the pretrained layer before any training: only the update "
            "is multiplied by s.",
        ),
        Mistake(
            "no bias",
            {" + bias": ""},
            "The layer's own bias is missing. It is frozen, and it still belongs to the frozen path.",
        ),
        Mistake(
            "no frozen path",
            {"frozen + alpha": "alpha"},
            "Only the update comes back. LoRA goes beside the frozen layer, not in its place: add both paths.",
        ),
        Mistake(
            "subtracted",
            {"frozen + alpha": "frozen - alpha"},
            "The update is subtracted. It is added: h = W0 x + b + s · B A x.",
        ),
        Mistake(
            "not transposed",
            {"x @ lora_A.T @ lora_B.T": "x @ lora_A @ lora_B"},
            "The shapes do not meet. With one example per row, A x is written x @ lora_A.T, as for the weight.",
        ),
    ),
    accepted=(
        """
def lora_forward(x, weight, bias, lora_A, lora_B, alpha):
    delta = alpha / lora_A.size(0) * (lora_B @ lora_A)
    return F.linear(x, weight + delta, bias)
""",
        """
def lora_forward(x, weight, bias, lora_A, lora_B, alpha):
    y = F.linear(x, weight, bias)
    return y.add(F.linear(F.linear(x, lora_A), lora_B), alpha=alpha / len(lora_A))
""",
        """
def lora_forward(x, weight, bias, lora_A, lora_B, alpha):
    scale = alpha / lora_B.shape[-1]
    return torch.einsum("oi,bi->bo", weight, x) + scale * torch.einsum("or,ri,bi->bo", lora_B, lora_A, x) + bias
""",
    ),
    hints=(
        "There are two paths from x to the output, and they are added at the end. Write each on its own line.",
        "The frozen path is x @ weight.T + bias. The other one goes through lora_A first and lora_B second.",
        "The scale is alpha divided by the rank, and it belongs to the second path only. The rank is lora_A.shape[0].",
    ),
    remark="x passes through two thin matrices, never through B A as one big one: that is where the saving is.",
)
