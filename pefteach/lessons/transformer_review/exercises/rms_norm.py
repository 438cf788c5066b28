"""Divide by the root mean square, then scale each channel (Zhang & Sennrich 2019, equation 4)."""

from collections.abc import Iterator
from typing import Any

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake
from pefteach.exercises.subject import Subject


def inputs(draw: Draw) -> Iterator[Inputs]:
    batch, tokens, size = draw.sizes(3)
    yield {
        "size": size,
        "eps": 0.1,  # far larger than in real models, so that its place can be seen
        "x": 0.5 + draw.normal(batch, tokens, size),
        "weight": 1 + draw.normal(size),
        "cotangent": draw.normal(batch, tokens, size),
    }


def observe(subject: Subject, name: str, case: Inputs) -> Iterator[tuple[str, Any]]:
    norm = subject.build(name, {"size": case["size"], "eps": case["eps"]})
    tensors = subject.tensors(norm)
    yield "what trains", {key: list(t["value"].shape) for key, t in tensors.items() if t["trains"]}
    yield f"{name}(size, eps) as it starts, on x {tuple(case['x'].shape)}", subject.forward(norm, {"x": case["x"]})
    subject.set_tensors(norm, {"weight": case["weight"]})
    yield f"{name} with another weight, on x {tuple(case['x'].shape)}", subject.forward(norm, {"x": case["x"]})
    yield "the gradient of the weight", subject.backward(norm, {"x": case["x"]}, case["cotangent"])


EXERCISE = Exercise(
    name="RMSNorm",
    title="RMSNorm",
    minutes=10,
    level="core",
    statement="""
$$y = w \\odot \\frac{x}{\\sqrt{\\text{mean}(x^2) + \\epsilon}}$$

The mean runs over the channels, the last axis. The scale $w$, one number per channel, trains and starts at one. Unlike
LayerNorm, RMSNorm subtracts no mean.
""",
    code='''
class RMSNorm(nn.Module):
    """Divide by the root mean square, then scale each channel."""

    def __init__(self, size, eps):
        """size: the number of channels; eps: a small number. Makes the parameter weight (size,), all ones."""
        super().__init__()
        ### BEGIN SOLUTION
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        ### END SOLUTION

    def forward(self, x):
        """x (batch, tokens, size). Returns the same shape."""
        ### BEGIN SOLUTION
        mean_square = x.pow(2).mean(-1, keepdim=True)  # (batch, tokens, 1)
        return self.weight * x / torch.sqrt(mean_square + self.eps)
        ### END SOLUTION
''',
    inputs=inputs,
    observe=observe,
    mistakes=(
        Mistake(
            "mean subtracted",
            {"mean_square =": "x = x - x.mean(-1, keepdim=True)\n        mean_square ="},
            "The mean is subtracted first: that is LayerNorm. RMSNorm leaves it in.",
        ),
        Mistake(
            "no eps",
            {"mean_square + self.eps": "mean_square"},
            "eps is missing: add it to the mean square, so that a token of zeros divides by something.",
        ),
        Mistake(
            "eps outside",
            {"torch.sqrt(mean_square + self.eps)": "(torch.sqrt(mean_square) + self.eps)"},
            "eps is added after the root. It belongs under the root.",
        ),
        Mistake(
            "no root",
            {"torch.sqrt(mean_square + self.eps)": "(mean_square + self.eps)"},
            "The division is by the mean square. Take its root: that is the R in RMS.",
        ),
        Mistake(
            "sum",
            {".mean(-1": ".sum(-1"},
            "The squares are summed. Take their mean, or the result depends on how many channels there are.",
        ),
        Mistake(
            "over the tokens",
            {".mean(-1": ".mean(1"},
            "The mean runs over the tokens. Each token is normalised on its own, over its channels: the last axis.",
        ),
        Mistake(
            "over everything",
            {".mean(-1, keepdim=True)": ".mean()"},
            "There is one mean for the whole batch, so every token depends on all others. Take it over the last axis "
            "only.",
        ),
        Mistake(
            "zero start",
            {"torch.ones(size)": "torch.zeros(size)"},
            "The weight starts at zero, which switches the layer off. Let it start at one.",
        ),
        Mistake(
            "no parameter",
            {"nn.Parameter(torch.ones(size))": "torch.ones(size)"},
            "The weight is a plain tensor, so nothing trains. Wrap it in nn.Parameter.",
        ),
        Mistake(
            "weight unused",
            {"self.weight * x /": "x /"},
            "The weight is there, but the output does not depend on it. Multiply by it at the end.",
        ),
    ),
    accepted=(
        """
class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        return x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + self.eps) * self.weight
""",
        """
class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.eps = eps
        self.size = size
        self.weight = nn.Parameter(torch.full((size,), 1.0))

    def forward(self, x):
        return F.rms_norm(x, (self.size,), self.weight, self.eps)
""",
        """
class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.ones(size)))
        self.register_buffer("eps", torch.tensor(float(eps)))

    def forward(self, x):
        mean = torch.einsum("btd,btd->bt", x, x) / x.shape[2]
        return torch.einsum("btd,bt,d->btd", x, (mean + self.eps) ** -0.5, self.weight)
""",
    ),
    hints=(
        "__init__ remembers two things: the weight, as an nn.Parameter of ones, and eps.",
        "x.pow(2).mean(-1, keepdim=True) keeps the last axis with size 1, so that dividing works.",
        "Divide x by torch.sqrt(mean square + eps), then multiply by the weight.",
    ),
    remark="Per layer this is one number per channel: the few parameters that norm tuning trains.",
)
