"""One training step of every method: against its reference library, and against the least it could cost.

A step is forward, loss, backward and AdamW, on a Hugging Face Llama with random weights. The least it could cost
is counted in passes of the frozen model. A backward pass has two products where a forward pass has one: the
gradient of a layer's input, which every method needs down to its lowest layer, and the gradient of its weight,
which only full fine-tuning needs everywhere. So the floor is two forward passes, and three for full fine-tuning.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pefteach.methods import TECHNIQUES, FullFineTuning, Method, attach
from pefteach.workshop.bench.timing import time_variants
from pefteach.workshop.machine import need
from pefteach.workshop.rows import Row, row

BATCH, LENGTH, VOCABULARY = 8, 64, 2048
AGAINST_REFERENCE, AGAINST_FLOOR = 1.00, 1.20
STEPS = 1000  # that AdaLoRA's budget is planned for


@dataclass(frozen=True)
class Comparison:
    """A method, the library that has it too, what its batch holds besides, and the most it may cost of the floor."""

    method: Method
    reference: str | None
    inputs: Mapping[str, Tensor]
    floor_limit: float | None


COMPARISONS: dict[str, Comparison] = {
    name: Comparison(method, technique.equals, technique.inputs(BATCH), AGAINST_FLOOR if technique.near_floor else None)
    for technique in TECHNIQUES.values()
    for name, method in technique.timed.items()
}


def run(rounds: int = 10, builds: int = 6, width: int = 512) -> list[Row]:
    """Milliseconds per step, all variants taking turns step by step.

    All models are built ``builds`` times: where in memory its tensors came to lie makes a model a few percent faster
    or slower for as long as it lives.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(builds):
        for name, taken in time_variants(make_variants(width), rounds).items():
            times[name] += taken
    ms = {name: 1000 * statistics.median(taken) for name, taken in times.items()}

    rows = [
        row(f"{name} against {comparison.reference}", "ms", ms[name], AGAINST_REFERENCE, ms[f"reference {name}"])
        for name, comparison in COMPARISONS.items()
        if comparison.reference
    ]
    for name, comparison in COMPARISONS.items():
        passes = 3 if isinstance(comparison.method, FullFineTuning) else 2
        floor = passes * ms["forward"]
        rows.append(row(f"{name} against {passes} forward passes", "ms", ms[name], comparison.floor_limit, floor))
    return rows


def make_variants(width: int) -> dict[str, Callable[[], object]]:
    """A forward pass of the frozen model, and a training step of every method."""
    base, ids = llama(width), torch.randint(VOCABULARY, (BATCH, LENGTH))
    variants: dict[str, Callable[[], object]] = {"forward": lambda: _forward(base, ids)}
    for name, comparison in COMPARISONS.items():
        ours, theirs = training_steps(base, comparison, ids)
        variants[name] = ours
        if theirs:
            variants[f"reference {name}"] = theirs
    return variants


def llama(width: int) -> nn.Module:
    """Four blocks with biases (BitFit trains them), random weights, in training mode."""
    transformers = need("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=4,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=2 * LENGTH,
        attention_bias=True, mlp_bias=True, use_cache=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).train()


def training_steps(base: nn.Module, comparison: Comparison, ids: Tensor) -> tuple[Callable, Callable | None]:
    """A training step of ours and one of the reference's, from the same start values."""
    model = deepcopy(base)
    adapter = attach(model, comparison.method)
    inputs = {"input_ids": ids, "labels": ids} | {key: value[: len(ids)] for key, value in comparison.inputs.items()}
    ours = training_step(model, inputs, adapter.penalty, adapter.after_step)
    if comparison.reference is None:
        return ours, None
    need(comparison.reference)
    from pefteach.workshop.parity.reference import REFERENCES

    reference = REFERENCES[comparison.reference](deepcopy(base), adapter)
    reference.take_over(adapter)
    return ours, training_step(reference.model.train(), inputs, reference.penalty, reference.after_step)


def training_step(
    model: nn.Module, inputs: dict[str, Tensor], penalty: Callable, after_step: Callable
) -> Callable[[], float]:
    """One optimiser step on a batch, as a function; it returns the loss before the step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, foreach=True)
    count = itertools.count()

    def step() -> float:
        loss = model(**inputs).loss + penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after_step(next(count), STEPS)
        return loss.item()

    return step


@torch.no_grad()
def _forward(model: nn.Module, ids: Tensor) -> None:
    model(input_ids=ids)
