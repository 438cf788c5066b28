"""Measure the largest difference of two implementations on the same random tensors and the same batch."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pefteach.methods import Adapter, attach
from pefteach.model.modules import base_state
from pefteach.workshop.parity.cases import ParityCase
from pefteach.workshop.parity.families import make, make_batch
from pefteach.workshop.parity.reference import REFERENCES, Reference

STEPS = 10


@dataclass(frozen=True)
class Differences:
    """The largest absolute differences, in float32."""

    forward: float  # of the logits
    gradient: float  # of the loss with respect to every trained tensor
    training: float  # of the losses of ten AdamW steps, and of the logits after them
    merged: float | None  # of the weights with the adapter merged, where it can be

    @property
    def largest(self) -> float:
        return max(self.forward, self.gradient, self.training, self.merged or 0.0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' advice on settings that are chosen on purpose here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def compare(case: ParityCase, family: str) -> Differences:
    """Compare our implementation with the reference's.

    Raises:
        AssertionError: the two do not train the same tensors, or one gets no gradient.
    """
    ours, adapter, reference = pair(case, family)
    batch = make_batch(family) | dict(case.inputs)

    def our_logits() -> Tensor:
        return ours(**batch).logits

    def their_logits() -> Tensor:
        return reference.logits(batch)

    forward = difference(our_logits(), their_logits(), batch)
    tensors = adapter.trained_tensors()
    loss(our_logits, adapter.penalty, batch).backward()
    loss(their_logits, reference.penalty, batch).backward()
    gradient = 0.0
    for key, tensor in tensors.items():
        assert tensor.grad is not None and reference.peers[key].grad is not None, f"no gradient reaches {key}"
        assert tensor.grad.abs().max() > 0, f"the gradient of {key} is zero"
        gradient = max(gradient, (tensor.grad - reference.peers[key].grad).abs().max().item())
    our_losses = train(our_logits, adapter.penalty, lambda step: adapter.after_step(step, STEPS), tensors, batch)
    their_losses = train(
        their_logits, reference.penalty, lambda step: reference.after_step(step, STEPS), reference.peers, batch
    )
    apart = max(abs(a - b) for a, b in zip(our_losses, their_losses, strict=True))
    training = max(apart, difference(our_logits(), their_logits(), batch))
    merged = _merged(ours, adapter, reference) if adapter.method.can_merge else None
    return Differences(forward, gradient, training, merged)


def _merged(ours: nn.Module, adapter: Adapter, reference: Reference) -> float:
    adapter.merge()
    our_state, their_state = base_state(ours), reference.merged()
    assert our_state.keys() == their_state.keys(), "merging leaves other tensors behind"
    return max((our_state[key] - their_state[key]).abs().max().item() for key in our_state)


def pair(case: ParityCase, family: str) -> tuple[nn.Module, Adapter, Reference]:
    """Our adapter and the reference's, on two copies of a model and with the same random numbers in both."""
    assert case.reference is not None
    base = make(family)
    ours = copy.deepcopy(base)
    adapter = attach(ours, case.methods[family])
    reference = REFERENCES[case.reference](base, adapter)
    shake(adapter.trained_tensors())
    assert reference.peers.keys() == adapter.trained_tensors().keys(), "the reference trains other tensors"
    reference.take_over(adapter)
    return ours, adapter, reference


def shake(tensors: Mapping[str, Tensor], seed: int = 1) -> None:
    """Move every tensor off its start value: zeros and ones would hide half of all faults."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key in sorted(tensors):
            tensors[key].add_(torch.randn(tensors[key].shape, generator=rng) * 0.1)


def difference(ours: Tensor, theirs: Tensor, batch: dict[str, Tensor]) -> float:
    """The largest difference of logits (B, T, V), padding left out."""
    real = batch["attention_mask"].bool() if "decoder_input_ids" not in batch else ...
    return (ours[real] - theirs[real]).abs().max().item()


def loss(logits: Callable[[], Tensor], penalty: Callable[[], Tensor | float], batch: dict[str, Tensor]) -> Tensor:
    """Cross entropy of each token's logits with the token itself, plus the method's own term."""
    real = batch["attention_mask"].bool()
    return F.cross_entropy(logits()[real], batch["input_ids"][real]) + penalty()


def train(
    logits: Callable[[], Tensor],
    penalty: Callable[[], Tensor | float],
    after_step: Callable[[int], object],
    tensors: Mapping[str, Tensor],
    batch: dict[str, Tensor],
) -> list[float]:
    """Take ten steps of AdamW on one batch, and return the loss before each."""
    optimizer = torch.optim.AdamW(tensors.values(), lr=1e-3, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        value = loss(logits, penalty, batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        after_step(step)
        losses.append(value.item())
    return losses
