"""The bytes of a real training step: what it keeps, and why.

Four things lie in memory while a model is trained:

* **weights**: the model itself, frozen or not;
* **gradients**: one number for every trained one;
* **optimizer**: AdamW's two moments for every trained number (Loshchilov & Hutter 2019);
* **activations**: what the forward pass sets aside for the backward pass.

From the second step on, all four are there at the end of the forward pass, so their sum is what a step needs.
Short-lived workspace comes on top and is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pefteach.train import Batch, next_token_loss


@dataclass(frozen=True)
class Bytes:
    """Bytes by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

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
    def bytes(self) -> int:
        return sum(self._sizes.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the model's parameters and stored buffers; a tied tensor counts once."""
    return sum({t.data_ptr(): t.nbytes for t in model.state_dict().values()}.values())


def gradient_bytes(model: nn.Module) -> int:
    """Bytes of the gradients that the model holds now."""
    return sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of an optimiser's state."""
    return sum(t.nbytes for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor))


def measure_step(model: nn.Module, batch: Batch, **forward: object) -> Bytes:
    """Take one step with AdamW and count its bytes. The learning rate is 0, so the weights stay what they are.

    Args:
        batch: ``input_ids``, ``attention_mask`` and ``labels``, each (B, T).
        forward: more arguments for the model, such as ``output_attentions=True``, which makes this package's
            decoder compute the attention matrix instead of calling the fused kernel.

    Raises:
        ValueError: nothing in the model requires gradients.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("nothing in this model requires gradients: attach a method before measuring a training step")
    optimizer = torch.optim.AdamW(trained, lr=0.0)
    optimizer.zero_grad()
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with SavedActivations(model) as saved:
        loss = next_token_loss(model(**inputs, **forward).logits, batch["labels"])
    activations = saved.bytes
    loss.backward()
    optimizer.step()
    result = Bytes(weight_bytes(model), gradient_bytes(model), optimizer_bytes(optimizer), activations)
    optimizer.zero_grad()
    return result
