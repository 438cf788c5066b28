"""A linear layer on frozen codes: y = x Wᵀ + b, dx = dy W, and no dW (Dettmers et al. 2023, "QLoRA", equation 5)."""

from collections.abc import Iterator
from typing import Any

import torch

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake
from pefteach.exercises.subject import Subject


def inputs(draw: Draw) -> Iterator[Inputs]:
    fan_out, fan_in, before, rows = draw.sizes(4)
    levels = torch.tensor([-1.0, -0.4, 0.0, 0.3, 1.0])
    yield {
        "codes": torch.tensor([[draw.integer(0, 4) for _ in range(fan_in)] for _ in range(fan_out)]),
        "scale": draw.normal(fan_out, 1).abs() + 0.5,
        "levels": levels,
        "bias": draw.normal(fan_out),
        "x": draw.normal(rows, fan_in),
        "first": {"weight": draw.normal(fan_in, before), "bias": draw.normal(fan_in)},
        "z": draw.normal(rows, before),
        "cotangent": draw.normal(rows, fan_out),
    }


def observe(subject: Subject, name: str, case: Inputs) -> Iterator[tuple[str, Any]]:
    given = {key: case[key] for key in ("codes", "scale", "levels", "bias")}
    layer = subject.build(name, given)
    yield "what trains", sorted(key for key, tensor in subject.tensors(layer).items() if tensor["trains"])
    yield f"forward on x {tuple(case['x'].shape)}", subject.forward(layer, {"x": case["x"]})

    # A plain layer in front: its gradients are what the layer under test passes on.
    fan_in, before = case["first"]["weight"].shape
    front = subject.build("torch.nn:Linear", {"in_features": before, "out_features": fan_in})
    subject.set_tensors(front, case["first"])
    both = subject.build("torch.nn:Sequential", {"front": front, "layer": layer})
    gradients = subject.backward(both, {"z": case["z"]}, case["cotangent"])
    yield (
        f"gradients of a layer in front of it, {fan_in} inputs and {case['scale'].shape[0]} outputs here",
        {key: gradients[f"0.{key}"] for key in ("weight", "bias")},
    )


EXERCISE = Exercise(
    name="FourBitLinear",
    title="A linear layer on frozen codes",
    minutes=15,
    level="core",
    statement="""
The layer holds no weight. It makes $W$ from the codes when it needs it, for $y = x W^\\top + b$. On the way back it
makes $W$ *again*, because what is kept between the two takes memory: $dx = dy\\,W$.

Write the two products of `FrozenProduct`. `backward` returns one value per argument of `forward`: the gradient of `x`,
and `None` for codes, scale and levels, which are frozen.
""",
    code='''
def dequantise(codes, scale, levels):
    """codes (out, in), scale (out, 1), levels (n,) -> W (out, in)."""
    return levels[codes] * scale


class FrozenProduct(torch.autograd.Function):
    """x (batch, in) -> x Wᵀ (batch, out), for a W that lies in codes and gets no gradient."""

    @staticmethod
    def forward(ctx, x, codes, scale, levels):
        ctx.save_for_backward(codes, scale, levels)
        ### BEGIN SOLUTION
        return x @ dequantise(codes, scale, levels).T
        ### END SOLUTION

    @staticmethod
    def backward(ctx, dy):
        """dy (batch, out): the gradient of the output."""
        codes, scale, levels = ctx.saved_tensors
        ### BEGIN SOLUTION
        return dy @ dequantise(codes, scale, levels), None, None, None
        ### END SOLUTION


class FourBitLinear(nn.Module):
    """A linear layer whose weight is frozen codes; its bias is frozen, too."""

    def __init__(self, codes, scale, levels, bias):
        """codes (out, in), scale (out, 1), levels (n,), bias (out,)."""
        super().__init__()
        ### BEGIN SOLUTION
        for name, tensor in {"codes": codes, "scale": scale, "levels": levels, "bias": bias}.items():
            self.register_buffer(name, tensor)
        ### END SOLUTION

    def forward(self, x):
        """x (batch, in). Returns (batch, out)."""
        ### BEGIN SOLUTION
        return FrozenProduct.apply(x, self.codes, self.scale, self.levels) + self.bias
        ### END SOLUTION
''',
    inputs=inputs,
    observe=observe,
    mistakes=(
        Mistake(
            "no bias",
            {" + self.bias": ""},
            "The bias is missing: y = x Wᵀ + b.",
        ),
        Mistake(
            "codes as weights",
            {
                "return x @ dequantise(codes, scale, levels).T": "return x @ codes.float().T",
                "return dy @ dequantise(codes, scale, levels)": "return dy @ codes.float()",
            },
            "The codes themselves are multiplied. A code is a place in levels: dequantise first.",
        ),
        Mistake(
            "no scale",
            {"x @ dequantise(codes, scale, levels)": "x @ levels[codes]"},
            "The product is formed with the levels alone: every row's scale is missing.",
        ),
        Mistake(
            "no scale backward",
            {"dy @ dequantise(codes, scale, levels)": "dy @ levels[codes]"},
            "Forward is right; on the way back the scale is missing. Both products need the same W.",
        ),
        Mistake(
            "codes backward",
            {"dy @ dequantise(codes, scale, levels)": "dy @ codes.to(dy.dtype)"},
            "Forward is right; on the way back the codes themselves are multiplied. Dequantise again.",
        ),
        Mistake(
            "transposed backward",
            {"dy @ dequantise(codes, scale, levels)": "dy @ dequantise(codes, scale, levels).T"},
            "Backward the shapes do not meet: dy is (batch, out) and W (out, in), so dx = dy W, without a transpose.",
        ),
        Mistake(
            "gradient passed through",
            {"dy @ dequantise(codes, scale, levels)": "dy[:, :1].expand(-1, codes.shape[1])"},
            "dy does not pass through W on the way back, so what lies in front of the layer learns nothing sensible. "
            "dx = dy W.",
        ),
        Mistake(
            "no gradient",
            {"return dy @ dequantise(codes, scale, levels), None": "return None, None"},
            "The output is right, but no gradient arrives in front of this layer, so nothing there can train. Only the "
            "codes are frozen: x needs its gradient, dx = dy W. Look for None, detach or no_grad on the way.",
        ),
        Mistake(
            "bias trains",
            {
                "            self.register_buffer(name, tensor)": "            self.register_buffer(name, tensor)\n"
                "        del self.bias\n        self.bias = nn.Parameter(bias)"
            },
            "The bias requires a gradient. All of the base is frozen in QLoRA: keep it as a buffer, or as a parameter "
            "with requires_grad=False.",
        ),
        Mistake(
            "a weight that trains",
            {
                "            self.register_buffer(name, tensor)": "            self.register_buffer(name, tensor)\n"
                "        self.weight = nn.Parameter(dequantise(codes, scale, levels))"
            },
            "The full weight lies in the module as a parameter, and requires a gradient. Then nothing is saved: keep "
            "codes, scale and levels only.",
        ),
    ),
    accepted=(
        """
class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, codes, scale, levels):
        ctx.parts = codes, scale, levels
        return F.linear(x, levels[codes] * scale)

    @staticmethod
    def backward(ctx, dy):
        codes, scale, levels = ctx.parts
        return torch.einsum("bo,oi->bi", dy, levels[codes] * scale), None, None, None


class FourBitLinear(nn.Module):
    def __init__(self, codes, scale, levels, bias):
        super().__init__()
        self.codes, self.scale, self.levels, self.bias = codes, scale, levels, bias

    def forward(self, x):
        return Product.apply(x, self.codes, self.scale, self.levels) + self.bias
""",
        """
class FourBitLinear(nn.Module):
    def __init__(self, codes, scale, levels, bias):
        super().__init__()
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("scale", scale)
        self.register_buffer("levels", levels)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x):
        weight = self.levels[self.codes] * self.scale  # autograd keeps it: right, though not thrifty
        return F.linear(x, weight, self.bias)
""",
        """
class FourBitLinear(nn.Module):
    def __init__(self, codes, scale, levels, bias):
        super().__init__()
        self.make = lambda: scale * torch.gather(levels, 0, codes.flatten()).view(codes.shape)
        self.add = bias

    def forward(self, x):
        def product(x):
            return x @ self.make().t()

        if not x.requires_grad:
            return product(x) + self.add
        return torch.utils.checkpoint.checkpoint(product, x, use_reentrant=False) + self.add
""",
    ),
    hints=(
        "In __init__, register_buffer(name, tensor) keeps a tensor with the module without training it.",
        "Forward: make W with dequantise, then x @ W.T. FrozenProduct.apply(…) calls it; add the bias afterwards.",
        "Backward: dx = dy @ W, with W made again. Return it first, then None three times.",
    ),
    remark="A plain product would give the same numbers, but autograd would keep every layer's full W from the forward "
    "pass to the backward pass. That would undo the saving.",
)
