"""The bytes of a real training step: what it keeps, and why.

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

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
        peak: the most at any moment of the step; None where only a formula was asked.
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


class SavedActivations:
    """Counts what autograd saves for the backward pass, inside a ``with`` block.

    ``bytes`` holds the result. The model's own tensors are left out: they are in memory anyway. Several saved
    tensors may be views of one storage, which counts once. Keep the loss alive until you read the result: memory
    that is freed and used again inside the block could not be told apart.
    """

    def __init__(self, model: nn.Module):
        self._model = {_storage(t) for t in (*model.parameters(), *model.buffers())}
        self._sizes: dict[int, int] = {}
        self._hooks = saved_tensors_hooks(self._save, lambda tensor: tensor)

    def __enter__(self) -> SavedActivations:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _save(self, tensor: Tensor) -> Tensor:
        if _storage(tensor) not in self._model:
            self._sizes[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    @property
    def storages(self) -> set[int]:
        return set(self._sizes)

    @property
    def bytes(self) -> int:
        return sum(self._sizes.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # an address that fake tensors have, too; their data has none


# torch.distributed._tools.MemTracker does the same and more, but it hooks the gradient of every parameter, and raises
# on a frozen one. Here all are frozen but a few.
class LiveBytes(TorchDispatchMode):
    """Follows the memory of tensors inside a ``with`` block: what every operation makes, until it is freed.

    The tensors may be real or fake. ``now`` and ``peak`` hold the bytes. What an operation uses inside itself, and
    frees, is not seen.

    Args:
        held: tensors that are there already.
    """

    def __init__(self, held: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.peak = 0
        self.sizes: dict[int, int] = {}  # by storage
        self._ends: dict[int, weakref.ref] = {}
        for tensor in held:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.sizes:  # else a view, or a result written in place
            self.sizes[key] = size
            self._ends[key] = weakref.ref(storage, lambda _: self._free(key))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _free(self, key: int) -> None:
        self.now -= self.sizes.pop(key)
        del self._ends[key]


def weight_tensors(model: nn.Module) -> list[Tensor]:
    """The model's parameters and stored buffers, and the scales of what is in 4 bits; a tied tensor comes once."""
    found: list[Tensor] = list(model.parameters())
    for module in model.modules():
        passing = module._non_persistent_buffers_set
        found += [b for name, b in module._buffers.items() if b is not None and name not in passing]
        if (quantised := four_bit_weight(module)) is not None:
            scales = quantised.absmax
            found += [scales.codes, scales.absmax, scales.offset] if isinstance(scales, NestedAbsmax) else [scales]
    return list({(_storage(tensor), tensor.storage_offset()): tensor for tensor in found}.values())


def weight_bytes(model: nn.Module) -> int:
    """Bytes of :func:`weight_tensors`."""
    return sum(tensor.nbytes for tensor in weight_tensors(model))


def gradient_bytes(model: nn.Module) -> int:
    """Bytes of the gradients that the model holds now."""
    return sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)


def state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What an optimiser remembers; a code book that several states share comes once."""
    found = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    return list({_storage(tensor): tensor for tensor in found}.values())


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of an optimiser's state."""
    return sum(tensor.nbytes for tensor in state_tensors(optimizer))


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
    active = [adapter for adapter in attached(model).values() if adapter.active]
    optimizer = make_optimizer(trained, lr=0.0)
    for p in trained:  # an empty step, so that the one that counts is not the first
        p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    held = [*weight_tensors(model), *model.buffers(), *state_tensors(optimizer), *batch.values()]
    with LiveBytes(held) as live:
        there = set(live.sizes)
        with SavedActivations(model) as saved:
            loss = next_token_loss(model(**inputs, **forward).logits, batch["labels"])
            total = loss + sum(adapter.penalty() for adapter in active)
        # What the forward pass made and left, and what it found and keeps, such as token ids. The hooks alone would
        # miss the inputs of checkpointed blocks, which autograd does not know of.
        kept = (live.sizes.keys() - there | saved.storages & there) - {_storage(loss), _storage(total)}
        activations = sum(live.sizes[key] for key in kept)
        total.backward()
        optimizer.step()
    result = Bytes(weight_bytes(model), gradient_bytes(model), optimizer_bytes(optimizer), activations, live.peak)
    optimizer.zero_grad()
    return result
