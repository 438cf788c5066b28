"""The layer as a module: what is frozen, what trains, and how it starts (Hu et al. 2021, section 4.1)."""

from collections.abc import Iterator
from typing import Any

from pefteach.exercises.compare import difference
from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake
from pefteach.exercises.subject import Subject


def inputs(draw: Draw) -> Iterator[Inputs]:
    rank, fan_out, fan_in = sorted(draw.sizes(3))
    batch = rank + 1
    yield {
        "fan_in": fan_in,
        "fan_out": fan_out,
        "rank": rank,
        "alpha": rank * draw.integer(2, 4) + 1,
        "base": {"weight": draw.normal(fan_out, fan_in), "bias": draw.normal(fan_out)},
        "x": draw.normal(batch, fan_in),
        "lora_A": draw.normal(rank, fan_in),
        "lora_B": draw.normal(fan_out, rank),
        "cotangent": draw.normal(batch, fan_out),
    }


def observe(subject: Subject, name: str, case: Inputs) -> Iterator[tuple[str, Any]]:
    base = subject.build("torch.nn:Linear", {"in_features": case["fan_in"], "out_features": case["fan_out"]})
    subject.set_tensors(base, case["base"])
    x = {"x": case["x"]}
    plain = subject.forward(base, x).value
    layer = subject.build(name, {"base": base, "rank": case["rank"], "alpha": case["alpha"]})

    # lora_A may be a Parameter, or a bias-free Linear that holds one as lora_A.weight.
    named = {key.removesuffix(".weight"): key for key in subject.tensors(layer)}
    start = {short: subject.tensors(layer)[key] for short, key in named.items()}
    yield "the shapes of what trains", {k: list(t["value"].shape) for k, t in start.items() if t["trains"]}
    yield (
        "what is all zeros at the start",
        [k for k in ("lora_A", "lora_B") if k in start and not start[k]["value"].any()],
    )
    untouched = subject.forward(layer, x)
    yield "an untrained layer answers like its base", difference(plain, untouched.value) is None

    subject.set_tensors(layer, {named.get(key, key): case[key] for key in ("lora_A", "lora_B")})
    yield (
        f"{name}(base, rank={case['rank']}, alpha={case['alpha']}) on x {tuple(x['x'].shape)}",
        subject.forward(layer, x),
    )
    gradients = subject.backward(layer, x, case["cotangent"])
    yield "the gradients of lora_A and lora_B", {key: gradients[named[key]] for key in ("lora_A", "lora_B")}


EXERCISE = Exercise(
    name="LoRALinear",
    title="The layer as a module, and how it starts",
    minutes=14,
    level="core",
    statement="""
Put the formula into an `nn.Module` that stands where a linear layer stood.

- the base layer is frozen; only `lora_A` (rank, in) and `lora_B` (out, rank) train;
- `lora_A` starts with random numbers and `lora_B` with zeros, so the untrained layer answers exactly like its base;
- `alpha / rank` scales the update.
""",
    code='''
class LoRALinear(nn.Module):
    """A frozen linear layer with a trained low-rank update beside it."""

    def __init__(self, base, rank, alpha):
        """base: an nn.Linear; rank: a whole number; alpha: a number.

        Makes the parameters lora_A (rank, in) and lora_B (out, rank).
        """
        super().__init__()
        self.base = base
        ### BEGIN SOLUTION
        base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank
        ### END SOLUTION

    def forward(self, x):
        """x (batch, in). Returns (batch, out)."""
        ### BEGIN SOLUTION
        return self.base(x) + self.scale * (x @ self.lora_A.T @ self.lora_B.T)
        ### END SOLUTION
''',
    inputs=inputs,
    observe=observe,
    mistakes=(
        Mistake(
            "base trains",
            {"base.requires_grad_(False)": "pass"},
            "The base's weight and bias still require gradients. Freeze them: that they need no gradients and no "
            "optimiser state is the point of LoRA.",
        ),
        Mistake(
            "bias trains",
            {"base.requires_grad_(False)": "base.requires_grad_(False)\n        base.bias.requires_grad_(True)"},
            "The base's bias still trains. LoRA freezes the whole layer, its bias included.",
        ),
        Mistake(
            "B random",
            {"torch.zeros(base.out_features, rank)": "torch.randn(base.out_features, rank)"},
            "Both matrices start random, so the untrained layer already answers differently from its base. "
            "Let lora_B start at zero.",
        ),
        Mistake(
            "both zero",
            {"torch.randn(rank, base.in_features)": "torch.zeros(rank, base.in_features)"},
            "Both matrices start at zero. Then the gradient of each is zero too (each is multiplied by the other), and "
            "nothing will ever train. Let lora_A start random.",
        ),
        Mistake(
            "start swapped",
            {
                "torch.randn(rank, base.in_features)": "torch.zeros(rank, base.in_features)",
                "torch.zeros(base.out_features, rank)": "torch.randn(base.out_features, rank)",
            },
            "lora_A starts at zero and lora_B random. It would train, but the convention is the other way round: "
            "A random, B zero.",
        ),
        Mistake(
            "not parameters",
            {
                "nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)": "torch.randn(rank, 1)",
                "nn.Parameter(torch.zeros(base.out_features, rank))": "torch.zeros(base.out_features, rank)",
            },
            "The module has nothing that trains: plain tensors are invisible to an optimiser. Wrap both in "
            "nn.Parameter.",
        ),
        Mistake(
            "transposed layout",
            {
                "torch.randn(rank, base.in_features)": "torch.randn(base.in_features, rank)",
                "torch.zeros(base.out_features, rank)": "torch.zeros(rank, base.out_features)",
                "x @ self.lora_A.T @ self.lora_B.T": "x @ self.lora_A @ self.lora_B",
            },
            "The matrices are stored transposed. As for nn.Linear, the output size comes first: lora_A (rank, in), "
            "lora_B (out, rank). Files that other libraries can read depend on it.",
        ),
        Mistake(
            "no scale",
            {"self.scale * (": "("},
            "The update is not scaled: multiply it by alpha / rank.",
        ),
        Mistake(
            "alpha times rank",
            {"alpha / rank": "alpha * rank"},
            "The scale is alpha · rank: divide by the rank where you multiply.",
        ),
        Mistake(
            "all scaled",
            {"self.base(x) + self.scale * (": "self.scale * (self.base(x) + "},
            "The base's own answer is scaled too, so the pretrained layer is changed before any training. Scale only "
            "the update.",
        ),
        Mistake(
            "detached",
            {"(x @ self.lora_A.T @ self.lora_B.T)": "(x @ self.lora_A.T @ self.lora_B.T).detach()"},
            "The output is right, but no gradient reaches lora_A and lora_B. Look for detach, .data or no_grad on the "
            "way.",
        ),
    ),
    accepted=(
        """
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base = base
        for parameter in base.parameters():
            parameter.requires_grad = False
        self.lora_A = nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)
        self.rank, self.alpha = rank, alpha

    def forward(self, x):
        return self.base(x) + self.lora_B(self.lora_A(x)) * self.alpha / self.rank
""",
        """
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank

    def forward(self, x):
        return F.linear(x, self.base.weight + self.scale * self.lora_B @ self.lora_A, self.base.bias)
""",
        """
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        super().__init__()
        out, in_ = base.weight.shape
        self.register_parameter("lora_A", nn.Parameter(torch.rand(rank, in_) - 0.5))
        self.register_parameter("lora_B", nn.Parameter(torch.zeros(out, rank)))
        base.weight.requires_grad_(False)
        base.bias.requires_grad_(False)
        self.inner, self.scale = base, alpha / rank

    def forward(self, x):
        low = torch.einsum("bi,ri->br", x, self.lora_A)
        return self.inner(x).add(torch.einsum("br,or->bo", low, self.lora_B), alpha=self.scale)
""",
    ),
    hints=(
        "Four lines in __init__: freeze the base, make lora_A, make lora_B, remember the scale. One line in forward.",
        "base.requires_grad_(False) freezes all of a module. nn.Parameter(tensor) makes a tensor that trains.",
        "lora_A: torch.randn(rank, base.in_features), made smaller by √in. lora_B: torch.zeros(base.out_features, "
        "rank).",
        "forward: self.base(x) plus the scale times (x @ self.lora_A.T @ self.lora_B.T).",
    ),
    remark="At the start only lora_B gets a gradient, since lora_A is multiplied by B = 0. After one step both do.",
)
