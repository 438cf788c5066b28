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
from pefteach.workshop.bench.measure import Row, need, row, seconds

BATCH, LENGTH, VOCABULARY = 8, 64, 2048
AGAINST_REFERENCE, AGAINST_FLOOR = 1.00, 1.20
STEPS = 1000  # that AdaLoRA's budget is planned for


@dataclass(frozen=True)
class Contest:
    """A method, the library that has it too, what its batch holds besides, and the most it may cost of the floor."""

    method: Method
    reference: str | None
    inputs: Mapping[str, Tensor]
    floor_bar: float | None


CONTESTS: dict[str, Contest] = {
    name: Contest(method, technique.equals, technique.inputs(BATCH), AGAINST_FLOOR if technique.near_floor else None)
    for technique in TECHNIQUES.values()
    for name, method in technique.timed.items()
}


def measure(rounds: int = 10, builds: int = 6, width: int = 512) -> list[Row]:
    """Milliseconds per step, all arms taking turns step by step.

    All models are built ``builds`` times: where in memory its tensors came to lie makes a model a few percent faster
    or slower for as long as it lives.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(builds):
        for name, taken in seconds(make_arms(width), rounds).items():
            times[name] += taken
    ms = {name: 1000 * statistics.median(taken) for name, taken in times.items()}

    rows = [
        row(f"{name} against {contest.reference}", "ms", ms[name], AGAINST_REFERENCE, ms[f"reference {name}"])
        for name, contest in CONTESTS.items()
        if contest.reference
    ]
    for name, contest in CONTESTS.items():
        passes = 3 if isinstance(contest.method, FullFineTuning) else 2
        floor = passes * ms["forward"]
        rows.append(row(f"{name} against {passes} forward passes", "ms", ms[name], contest.floor_bar, floor))
    return rows


def make_arms(width: int) -> dict[str, Callable[[], object]]:
    """A forward pass of the frozen model, and a training step of every contestant."""
    base, ids = llama(width), torch.randint(VOCABULARY, (BATCH, LENGTH))
    arms: dict[str, Callable[[], object]] = {"forward": lambda: _forward(base, ids)}
    for name, contest in CONTESTS.items():
        ours, theirs = contestants(base, contest, ids)
        arms[name] = ours
        if theirs:
            arms[f"reference {name}"] = theirs
    return arms


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


def contestants(base: nn.Module, contest: Contest, ids: Tensor) -> tuple[Callable, Callable | None]:
    """A training step of ours and one of the reference's, from the same start values."""
    model = deepcopy(base)
    adapter = attach(model, contest.method)
    inputs = {"input_ids": ids, "labels": ids} | {key: value[: len(ids)] for key, value in contest.inputs.items()}
    ours = training_step(model, inputs, adapter.penalty, adapter.after_step)
    if contest.reference is None:
        return ours, None
    need(contest.reference)
    from pefteach.workshop.parity.reference import REFERENCES

    reference = REFERENCES[contest.reference](deepcopy(base), adapter)
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
