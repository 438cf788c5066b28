"""A method on one page: what it trains, what it costs and what it leaves behind, all of it measured on a model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from pefteach.memory.count import activation_bytes
from pefteach.methods import Adapter, FullFineTuning, Method, attach, attached, detach
from pefteach.training.batches import Batch

T = TypeVar("T")


@dataclass(frozen=True)
class MethodCard:
    """The figures that :func:`measure_method` found.

    Attributes:
        method: its settings.
        tensors: the trained tensors: name with the layer numbers as ``*``, shape, how many there are.
        formula, by_formula: the number of trained parameters as the paper counts it, and its value here.
        trained, total: the parameters that train, and those of the bare model.
        merges: whether it can be written into the base's weights, so that it costs nothing to run.
        extra_tokens: by how much the sequence, or the cache, grows.
        flops, base_flops: floating-point operations per token of a forward pass, with it and without.
        kept, kept_in_full: bytes set aside for the backward pass, and what full fine-tuning sets aside.
        stored: bytes of its file's tensors.
    """

    method: str
    tensors: list[tuple[str, tuple[int, ...], int]]
    formula: str
    by_formula: int
    trained: int
    total: int
    merges: bool
    extra_tokens: int
    flops: float
    base_flops: float
    kept: int
    kept_in_full: int
    stored: int

    def rows(self) -> list[tuple[str, str]]:
        """The lines of the card: what, and how much."""
        extra = self.flops / self.base_flops - 1
        return [
            ("trains", "; ".join(f"{count} × {name} {shape}" for name, shape, count in self.tensors)),
            ("trained parameters", f"{self.trained:,} of {self.total:,} ({self.trained / self.total:.2%})"),
            ("formula", f"{self.formula} = {self.by_formula:,}"),
            ("can be merged", "yes" if self.merges else "no"),
            ("sequence grows by", f"{self.extra_tokens} tokens" if self.extra_tokens else "nothing"),
            ("operations per token", f"{self.flops / 1e6:.3g} million ({extra:+.1%})"),
            ("kept for the backward pass", f"{self.kept / 1e6:.3g} MB ({self.kept / self.kept_in_full:.0%} of full)"),
            ("file", f"{self.stored / 1e3:,.1f} kB"),
        ]

    def _repr_markdown_(self) -> str:
        return f"**{self.method}**\n\n| | |\n|---|---|\n" + "\n".join(f"| {a} | {b} |" for a, b in self.rows())

    def __str__(self) -> str:
        return "\n".join([self.method, *(f"  {what + ':':<28}{value}" for what, value in self.rows())])


def measure_method(model: nn.Module, method: Method, batch: Batch) -> MethodCard:
    """Attach a method, measure it on a batch, and detach it again: the model stays what it was.

    Args:
        batch: ``input_ids``, ``attention_mask`` and ``labels``, each (B, T).

    Raises:
        ValueError: the method cannot apply, or the model has adapters already.
    """
    if attached(model):
        raise ValueError(f"detach {', '.join(attached(model))} first: a card describes one method on the bare model")
    total = sum(p.numel() for p in model.parameters())
    by_formula, base_flops = method.trained_parameters(model), _flops_per_token(model, batch)
    kept_in_full = _on(model, FullFineTuning(), lambda _: activation_bytes(model, batch))

    def card(adapter: Adapter) -> MethodCard:
        tensors = adapter.trained_tensors()
        kinds = Counter((_kind(name), tuple(tensor.shape)) for name, tensor in tensors.items())
        return MethodCard(
            method=repr(method),
            tensors=[(name, shape, count) for (name, shape), count in kinds.items()],
            formula=method.formula,
            by_formula=by_formula,
            trained=sum(tensor.numel() for tensor in tensors.values()),
            total=total,
            merges=method.can_merge,
            extra_tokens=method.extra_tokens(),
            flops=_flops_per_token(model, batch),
            base_flops=base_flops,
            kept=activation_bytes(model, batch),
            kept_in_full=kept_in_full,
            stored=sum(tensor.nbytes for tensor in adapter.file_tensors().values()),
        )

    return _on(model, method, card)


def _on(model: nn.Module, method: Method, measure: Callable[[Adapter], T]) -> T:
    """Attach a method, measure something, and detach it."""
    adapter = attach(model, method, "card")
    try:
        return measure(adapter)
    finally:
        detach(model, "card")


def _kind(name: str) -> str:
    """A tensor's name without the wrapping that peft's names have, and with its layer number as a star."""
    return re.sub(r"\.\d+\.", ".*.", name.removeprefix("base_model.model."))


@torch.no_grad()
def _flops_per_token(model: nn.Module, batch: Batch) -> float:
    from torch.utils.flop_counter import FlopCounterMode  # it loads triton, which takes longer than the rest

    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with FlopCounterMode(display=False) as counter:
        model(**inputs)
    return counter.get_total_flops() / batch["input_ids"].numel()
