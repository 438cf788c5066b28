"""A training run's state in a safetensors file, from which a killed run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pefteach.methods.core.adapter import Adapter
from pefteach.training.history import History
from pefteach.training.sharding import placed_like, whole


class Checkpoint:
    """Stores the trained weights, the optimiser's state, what adapters remember, and the history.

    Args:
        file: None to store nothing.
        seconds: how often the run should save.
        write: False in all processes of a run but one.
    """

    def __init__(
        self,
        file: Path | None,
        seconds: float,
        weights: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        adapters: Sequence[Adapter],
        write: bool = True,
    ):
        self.file, self.seconds, self.write = None if file is None else Path(file), seconds, write
        self.weights, self.optimizer = weights, optimizer
        self.tensors: dict[str, Tensor] = {f"weight:{name}": p for name, p in weights.items()}
        for adapter in adapters:
            self.tensors |= {f"state:{adapter.name}.{key}": t for key, t in adapter.training_state().items()}
        self.saved_at = time.monotonic()

    def due(self) -> bool:
        """Whether the last save is too long ago."""
        return self.file is not None and time.monotonic() - self.saved_at > self.seconds

    def save(self, history: History) -> None:
        """Write the file. All processes have to call this: a sharded tensor is gathered from them."""
        if self.file is None:
            return
        tensors = dict(self.tensors)
        for name, p in self.weights.items():
            for key, value in self.optimizer.state[p].items():
                tensors[f"{key}:{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
        tensors = {key: whole(t.detach()).cpu().contiguous() for key, t in tensors.items()}  # one by one, off the GPU
        if self.write:
            _write(self.file, tensors, {"history": json.dumps(asdict(history)), "optimizer": _name(self.optimizer)})
        self.saved_at = time.monotonic()

    @torch.no_grad()
    def load(self) -> History:
        """Put what the file holds back in its places, and return the history; a new one if there is no file.

        Raises:
            ValueError: a damaged file, or one of another model, method or optimiser.
        """
        if self.file is None or not self.file.exists():
            return History()
        found, history, optimizer = _read(self.file)
        shapes = {key: value.shape for key, value in found.items() if key.startswith(("weight:", "state:"))}
        if shapes != {key: tensor.shape for key, tensor in self.tensors.items()}:
            raise ValueError(f"{self.file} belongs to another model or method; remove it to begin again")
        if optimizer != _name(self.optimizer):
            raise ValueError(f"{self.file} was written with another optimiser, {optimizer}; remove it to begin again")
        for key, tensor in self.tensors.items():
            tensor.copy_(placed_like(tensor, found[key]))
        _restore(self.optimizer, self.weights, found)
        return history


def _write(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a file whole or not at all."""
    # The 8-bit code book of an optimiser is one tensor under many names, which safetensors wants as copies.
    seen: set[int] = set()
    for key, tensor in tensors.items():
        tensors[key] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file(tensors, partial, metadata=metadata)
    partial.replace(file)


def _read(file: Path) -> tuple[dict[str, Tensor], History, str]:
    """Tensors, history and the optimiser's name."""
    try:
        with safe_open(file, "pt") as stored:
            metadata = stored.metadata()
            found = {key: stored.get_tensor(key) for key in stored.keys()}
            return found, History(**json.loads(metadata["history"])), metadata["optimizer"]
    except (SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is damaged or no training checkpoint ({error}); remove it to begin again") from None


def _name(optimizer: Any) -> str:
    """A name for each optimiser whose states differ: AdamW of torch, and of bitsandbytes in 8 and in 32 bits."""
    made = type(optimizer)
    bits = getattr(getattr(optimizer, "args", None), "optim_bits", None)
    return f"{made.__module__}.{made.__qualname__}" + (f", {bits} bits" if bits else "")


def _restore(optimizer: Any, weights: Mapping[str, nn.Parameter], found: Mapping[str, Tensor]) -> None:
    """Give an optimiser its state back: the tensors called ``key:name of the weight``."""
    names = {p: name for name, p in weights.items()}
    states: dict[str, dict[str, Tensor]] = {name: {} for name in weights}
    for place, tensor in found.items():
        key, _, name = place.partition(":")
        if key not in ("weight", "state"):
            states[name][key] = tensor
    for i, group in enumerate(optimizer.param_groups):
        for j, p in enumerate(group["params"]):
            stored = states[names[p]]
            if not hasattr(optimizer, "init_state"):
                optimizer.state[p] = {key: placed_like(p, v) if v.ndim else v for key, v in stored.items()}
            elif stored:
                optimizer.init_state(group, p, i, j)  # bitsandbytes' state has to lie in buffers of its own making
                for key, value in optimizer.state[p].items():
                    if isinstance(value, Tensor):
                        value.copy_(stored[key])
                    else:
                        optimizer.state[p][key] = stored[key].item()
