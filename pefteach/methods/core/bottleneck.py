"""Bottleneck adapters: small networks inside the blocks of a frozen model.

    A(x) = W_up f(W_down x + b_down) + b_up,    W_down: (m, D),  W_up: (D, m),  m well below D

The papers differ in where A goes, and each has a file of its own. In one half of a block, x is the residual stream
that enters, h is the output of the attention or the feed-forward, and the block passes x + h on. Now h becomes

    houlsby.py     h + A(h)        in both halves
    pfeiffer.py    h + A(x + h)    in the feed-forward half
    parallel.py    h + s A(x)      in the feed-forward half

``sites.py`` says which modules have x and h in each family of models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pefteach.methods.core.adapter import Method, check_dropout
from pefteach.methods.core.parts_adapter import PartsAdapter
from pefteach.methods.core.sites import Sites, find_sites
from pefteach.methods.core.wrapping import Part

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "swish": F.silu, "gelu": F.gelu, "gelu_new": partial(F.gelu, approximate="tanh"),
}  # fmt: skip

# How W_down and W_up start; the biases start at zero.
INITS: dict[str, tuple[Callable, Callable]] = {
    "near": (partial(nn.init.trunc_normal_, std=0.01, a=-0.02, b=0.02),) * 2,  # Houlsby's: nearly the base
    "bert": (partial(nn.init.normal_, std=0.02),) * 2,  # as BERT's own matrices; the adapters library's choice
    "zero": (partial(nn.init.kaiming_uniform_, a=5**0.5), nn.init.zeros_),  # He's, from LoRA: exactly the base
}


class BottleneckPart(Part):
    """Adds s A(x) to the output of the module that it wraps. Its tensors stay in float32."""

    def __init__(self, D: int, m: int, method: Bottleneck, stream: StreamPart | None = None):
        super().__init__()
        self.adapter_down, self.adapter_up = nn.Linear(D, m), nn.Linear(m, D)
        self.scaling: Any = nn.Parameter(torch.ones(1)) if method.scale == "learned" else method.scale
        self.activation, self.dropout, self.stream = ACTIVATIONS[method.activation], method.dropout, stream
        for layer, start in zip((self.adapter_down, self.adapter_up), INITS[method.init], strict=True):
            start(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, call: Callable, *args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        if isinstance(result, tuple):  # an attention returns its weights too
            return self.add(result[0], self.read(result[0])), *result[1:]
        return self.add(result, self.read(result))

    def read(self, h: Tensor) -> Tensor:
        """The input of A, given h, the output of the wrapped module; both (B, T, D)."""
        raise NotImplementedError

    def add(self, h: Tensor, x: Tensor) -> Tensor:
        """h + s A(x), all of them (B, T, D)."""
        low = self.activation(self.adapter_down(x.to(self.adapter_down.weight.dtype)))  # (B, T, m)
        # Scale m numbers and the bias rather than D.
        update = F.linear(self.scaling * low, self.adapter_up.weight, self.scaling * self.adapter_up.bias)
        return h + F.dropout(update, self.dropout, self.training).to(h.dtype)


class StreamPart(Part):
    """Stores the residual stream x so that the adapter further down can read it."""

    composes_as = "reads"

    def forward(self, call: Callable, x: Tensor) -> Any:
        self.x = x
        return call(x)

    def take(self) -> Tensor:
        return self.__dict__.pop("x")  # a longer life would keep the whole autograd graph


@dataclass(frozen=True)
class Bottleneck(Method):
    """Base class of the three methods, with their settings.

    Args:
        reduction: m is D / reduction, rounded down.
        size: m itself, in place of ``reduction``.
        activation: f, one of ``ACTIVATIONS``.
        init: one of ``INITS``.
        scale: s, above 0, or "learned": trained, and 1 at the start.
        dropout: share of the numbers of s A that is zeroed while training.
        sites: the names of a block's modules, for blocks that ``SITES`` does not list.

    Raises:
        ValueError: when attached with a setting out of range, or to a model with unknown blocks.
    """

    reduction: float = 16
    size: int | None = None
    activation: str = "relu"
    init: str = "near"
    scale: float | str = 1.0
    dropout: float = 0.0
    sites: Sites | None = None

    formula: ClassVar[str] = "L (2 D m + m + D)"
    per_block: ClassVar[int] = 1

    @property
    def starts_as_base(self) -> bool:  # type: ignore[override]
        return self.init == "zero"

    def widths(self, model: Any) -> tuple[int, int]:
        """(D, m) on this model."""
        D = model.config.hidden_size
        m = self.size if self.size is not None else int(D // self.reduction) if self.reduction > 0 else 0
        if not 1 <= m <= D:
            setting = f"reduction {self.reduction}" if self.size is None else f"size {self.size}"
            raise ValueError(f"{setting} gives a bottleneck of {m} numbers: it needs 1 to {D}, the hidden size")
        return D, m

    def trained_parameters(self, model: nn.Module) -> int:
        D, m = self.widths(model)
        each = 2 * D * m + m + D + (self.scale == "learned")
        return len(find_sites(model, self.sites)) * self.per_block * each

    def place(self, sites: Sites, D: int, m: int) -> dict[str, Part]:
        """The parts of one block, by site."""
        raise NotImplementedError

    def build(self, model: nn.Module, name: str) -> PartsAdapter:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {self.activation!r}")
        if self.init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, not {self.init!r}")
        if self.scale != "learned" and (isinstance(self.scale, str) or self.scale <= 0):
            raise ValueError(f"scale must be above 0 or 'learned', not {self.scale!r}")
        check_dropout(self.dropout)
        D, m = self.widths(model)
        parts: dict[str, Part] = {}
        for path, sites in find_sites(model, self.sites).items():
            parts |= {f"{path}.{site}": part for site, part in self.place(sites, D, m).items()}
        return PartsAdapter(self, model, name, parts)

    # The settings in peft's files.
    @classmethod
    def from_peft(cls, config: dict) -> Method:
        return super().from_peft(config | {"sites": config["sites"] and Sites(**config["sites"])})
