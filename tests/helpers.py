"""What many tests need: tiny models with an adapter on them, what they answer, and a few steps of training."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pefteach.corpus.batches import Example
from pefteach.methods import Adapter, Method, attach, attached
from pefteach.training import History, fit
from pefteach.workshop.parity import compare
from pefteach.workshop.parity.families import LLAMA, make

# Where a test's body runs: on a CPU everywhere, and on a GPU where there is one.
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]

# The sizes of a tiny Llama, ours or transformers'. Faults show at them: in != out, key heads != query heads.
TINY = {**LLAMA, "head_dim": 16}

# Eight texts of nine tokens, of which the last five count.
EXAMPLES = [Example(tuple(range(3 + i, 12 + i)), (False,) * 4 + (True,) * 5) for i in range(8)]


def randomise(model: nn.Module) -> nn.Module:
    """Give every parameter, biases and norms too, a value that cannot pass for its start value."""
    compare.shake(dict(model.named_parameters()))
    return model


def model_with(method: Method, family: str = "ours", shaken: bool = True) -> tuple[nn.Module, Adapter]:
    """A tiny model with the method's adapter, whose tensors are moved off their start values if ``shaken``."""
    model = make(family)
    adapter = attach(model, method)
    if shaken:
        compare.shake(adapter.trained_tensors())
    return model, adapter


def trained_numbers(adapter: Adapter) -> int:
    """How many numbers the adapter trains."""
    return sum(tensor.numel() for tensor in adapter.trained_tensors().values())


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The model's logits (B, T, V), without a graph."""
    with torch.no_grad():
        return model(**batch).logits


def real(values: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The values (B, T, ...) of the tokens (N, ...), without those of the padding."""
    return values[batch["attention_mask"].bool()]


def loss(model: nn.Module, batch: dict[str, Tensor], penalty: Callable[[], Tensor | float] = lambda: 0.0) -> Tensor:
    """Cross entropy of each token's logits with the token itself, which models of every family can learn."""
    return compare.loss(lambda: model(**batch).logits, penalty, batch)


def train(model: nn.Module, steps: int = 4, data: object = EXAMPLES, **settings) -> History:
    """A few steps of ``fit``; ``settings`` are its own."""
    return fit(model, data, steps=steps, **{"lr": 1e-2, "batch_size": 4, "progress": None} | settings)


def train_by_hand(model: nn.Module, adapter: Adapter, batch: dict[str, Tensor], steps: int = 4) -> list[float]:
    """A few steps of AdamW on one batch of any family, without ``fit``; the losses."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    model.train()
    for step in range(steps):
        value = loss(model, batch, adapter.penalty)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        adapter.after_step(step, steps)
        losses.append(value.item())
    model.eval()
    return losses


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict."""
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(model: nn.Module, stored: dict[str, Tensor]) -> bool:
    """Whether the model's state dict is that snapshot, bit for bit."""
    now = model.state_dict()
    return now.keys() == stored.keys() and all(torch.equal(now[key], stored[key]) for key in stored)


def refuses(model: nn.Module, method: Method, message: str) -> None:
    """Attaching is refused with that message, and the model is what it was."""
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        attach(model, method)
    assert list(model.state_dict()) == keys and not attached(model)
    assert all(p.requires_grad for p in model.parameters())
