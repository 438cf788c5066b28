"""The bytes of a real training step: what it keeps in memory, and why.

Four things lie in memory while a model is trained:

* **weights**: the model itself, frozen or not;
* **gradients**: one number for every trained one;
* **optimizer**: AdamW's two moments for every trained number (Loshchilov & Hutter 2019);
* **activations**: what the forward pass sets aside for the backward pass.

From the second step on, the optimizer's are always there. The other two take turns: activations are freed while
gradients are formed, so their sum is what a step needs at most (and needs in full while gradients add up over several
batches). Short-lived workspace comes on top. The **peak** is the most that lies in memory at any moment, that included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pefteach.memory.trackers import LiveBytes, SavedActivations, storage_id
from pefteach.methods.core.adapter import attached
from pefteach.model.loss import next_token_loss
from pefteach.quant.double import NestedAbsmax
from pefteach.quant.load import four_bit_weight
from pefteach.training.adamw import AdamW
from pefteach.training.batches import Batch


@dataclass(frozen=True)
class Bytes:
    """Bytes by what they are for.

    Attributes:
        peak: the most at any moment of the step; None from the formula, which cannot tell.
        paged: how many of the optimizer's the driver may move off the GPU.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int | None = None
    paged: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def weight_tensors(model: nn.Module) -> list[Tensor]:
    """The model's parameters and stored buffers, and the scales of what is in 4 bits; a tied tensor comes once."""
    found: list[Tensor] = list(model.parameters())
    for module in model.modules():
        passing = module._non_persistent_buffers_set
        found += [b for name, b in module._buffers.items() if b is not None and name not in passing]
        if (quantised := four_bit_weight(module)) is not None:
            scales = quantised.absmax
            found += [scales.codes, scales.absmax, scales.offset] if isinstance(scales, NestedAbsmax) else [scales]
    return list({(storage_id(tensor), tensor.storage_offset()): tensor for tensor in found}.values())


def weight_bytes(model: nn.Module) -> int:
    """Bytes of :func:`weight_tensors`."""
    return sum(tensor.nbytes for tensor in weight_tensors(model))


def gradient_bytes(model: nn.Module) -> int:
    """Bytes of the gradients that the model holds now."""
    return sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)


def state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The tensors of an optimiser's state; a code book that several states share comes once."""
    found = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    return list({storage_id(tensor): tensor for tensor in found}.values())


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of an optimiser's state."""
    return sum(tensor.nbytes for tensor in state_tensors(optimizer))


def activation_bytes(model: nn.Module, batch: Batch, **forward: object) -> int:
    """Bytes of the activations of one forward pass, with the loss that :func:`measure_step` takes.

    Args:
        batch: ``input_ids``, ``attention_mask`` and ``labels``, each (B, T).
        forward: more arguments for the model.
    """
    with LiveBytes([*weight_tensors(model), *model.buffers(), *batch.values()]) as live:
        return _forward_pass(model, batch, live, **forward)[1]


def measure_step(
    model: nn.Module, batch: Batch, make_optimizer: Callable[..., torch.optim.Optimizer] = AdamW, **forward: object
) -> Bytes:
    """Take one step as :func:`pefteach.training.fit` does, with a learning rate of 0, and count its bytes.

    Args:
        batch: ``input_ids``, ``attention_mask`` and ``labels``, each (B, T).
        make_optimizer: makes the optimiser from parameters and ``lr``.
        forward: more arguments for the model, such as ``output_attentions=True``, which makes this package's
            decoder compute the attention matrix instead of calling the fused kernel.

    Raises:
        ValueError: nothing in the model requires gradients.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("nothing in this model requires gradients: attach a method before measuring a training step")
    optimizer = make_optimizer(trained, lr=0.0)
    for p in trained:  # an empty step, so that the one that counts is not the first
        p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()
    with LiveBytes([*weight_tensors(model), *model.buffers(), *state_tensors(optimizer), *batch.values()]) as live:
        loss, activations = _forward_pass(model, batch, live, **forward)
        loss.backward()
        optimizer.step()
    result = Bytes(weight_bytes(model), gradient_bytes(model), optimizer_bytes(optimizer), activations, live.peak)
    optimizer.zero_grad()
    return result


def _forward_pass(model: nn.Module, batch: Batch, live: LiveBytes, **forward: object) -> tuple[Tensor, int]:
    """The loss, and the bytes that stay until its backward pass: what the forward pass made, or found and saved."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    there = set(live.sizes)
    with SavedActivations(model) as saved:
        loss = next_token_loss(model(**inputs, **forward).logits, batch["labels"])
        total = loss + sum(adapter.penalty() for adapter in attached(model).values() if adapter.active)
    # The hooks alone would miss the inputs of blocks that are computed again, which autograd does not know of; what
    # the forward pass found and saves are the likes of token ids.
    kept = (live.sizes.keys() - there | saved.storages & there) - {storage_id(loss), storage_id(total)}
    return total, sum(live.sizes[key] for key in kept)
