"""What a training run needs to go on after it was killed, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save_checkpoint(
    file: Path,
    named: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    remembered: Mapping[str, Tensor],
    history: dict,
    write: bool = True,
) -> None:
    """Store weights, the optimiser's state, what adapters remember and the history, first beside ``file``, then there.

    Args:
        write: False in all processes of a run but one. All have to call it: a sharded tensor is gathered from them.
    """
    tensors: dict[str, Any] = {f"weight:{name}": p.detach() for name, p in named.items()}
    tensors |= {f"state:{name}": tensor for name, tensor in remembered.items()}
    for name, p in named.items():
        for key, value in optimizer.state[p].items():
            tensors[f"{key}:{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    tensors = {key: whole(tensor).cpu().contiguous() for key, tensor in tensors.items()}  # one by one, off the GPU
    if not write:
        return
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    # The 8-bit code book of an optimiser is one tensor under many names, which safetensors wants as copies.
    seen: set[int] = set()
    for key, tensor in tensors.items():
        tensors[key] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    save_file(tensors, partial, metadata={"history": json.dumps(history), "optimizer": _kind(optimizer)})
    partial.replace(file)


def load_checkpoint(
    file: Path, named: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, remembered: Mapping[str, Tensor]
) -> dict:
    """Take over what :func:`save_checkpoint` wrote, and return the history.

    Raises:
        ValueError: a damaged file, or one of another model, method or optimiser.
    """
    try:
        with safe_open(file, "pt") as stored:
            found = {k: stored.get_tensor(k) for k in stored.keys()}
            history, kind = json.loads(stored.metadata()["history"]), stored.metadata()["optimizer"]
    except (SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is damaged or no training checkpoint ({error}); remove it to begin again") from None
    targets: dict[str, Tensor] = {f"weight:{name}": p for name, p in named.items()}
    targets |= {f"state:{name}": tensor for name, tensor in remembered.items()}
    shapes = {k: v.shape for k, v in found.items() if k.startswith(("weight:", "state:"))}
    if shapes != {key: tensor.shape for key, tensor in targets.items()}:
        raise ValueError(f"{file} belongs to another model or method; remove it to begin again")
    if kind != _kind(optimizer):
        raise ValueError(f"{file} was written with another optimiser, {kind}; remove it to begin again")
    with torch.no_grad():
        for key, tensor in targets.items():
            tensor.copy_(_like(tensor, found[key]))
        names = {p: name for name, p in named.items()}
        states: dict[str, dict[str, Tensor]] = {name: {} for name in named}
        for key, tensor in found.items():
            part, _, name = key.partition(":")
            if part not in ("weight", "state"):
                states[name][part] = tensor
        for i, group in enumerate(optimizer.param_groups):
            for j, p in enumerate(group["params"]):
                _fill(optimizer, (group, p, i, j), states[names[p]])
    return history


def _kind(optimizer: Any) -> str:
    """Which optimiser it is: torch's and bitsandbytes' have one name but other states, and so have 8 and 32 bits."""
    made = type(optimizer)
    bits = getattr(getattr(optimizer, "args", None), "optim_bits", None)
    return f"{made.__module__}.{made.__qualname__}" + (f", {bits} bits" if bits else "")


def _fill(optimizer: Any, place: tuple[dict, nn.Parameter, int, int], stored: dict[str, Tensor]) -> None:
    """Give one parameter its state back."""
    p = place[1]
    if not hasattr(optimizer, "init_state"):
        optimizer.state[p] = {key: _like(p, value) if value.ndim else value for key, value in stored.items()}
    elif stored:
        optimizer.init_state(*place)  # bitsandbytes' state has to lie in buffers of its own making
        for key, value in optimizer.state[p].items():
            if isinstance(value, Tensor):
                value.copy_(stored[key])
            else:
                optimizer.state[p][key] = stored[key].item()


def whole(tensor: Any) -> Tensor:
    """The tensor itself, or what all processes together hold of a sharded one (torch's ``DTensor``)."""
    return tensor.full_tensor() if _sharded(tensor) else tensor


def local(tensor: Any) -> Tensor:
    """The tensor itself, or this process's piece of a sharded one; not part of any graph."""
    tensor = tensor.detach()
    return tensor.to_local() if _sharded(tensor) else tensor


def _sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # importing DTensor, to ask for it, takes a while


def _like(tensor: Any, value: Tensor) -> Tensor:
    """``value`` where ``tensor`` is, and sharded as that is."""
    value = value.to(tensor.device)
    if not _sharded(tensor):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, tensor.device_mesh, tensor.placements)
