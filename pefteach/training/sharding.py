"""Tensors that FSDP shards among processes (torch's ``DTensor``). Any other tensor passes through unchanged."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def whole(tensor: Any) -> Tensor:
    """The whole of a sharded tensor, gathered from all processes."""
    return tensor.full_tensor() if _sharded(tensor) else tensor


def local(tensor: Any) -> Tensor:
    """This process's piece of a sharded tensor; not part of any graph."""
    tensor = tensor.detach()
    return tensor.to_local() if _sharded(tensor) else tensor


def placed_like(tensor: Any, value: Tensor) -> Tensor:
    """``value`` on the device of ``tensor``, and sharded as that is."""
    value = value.to(tensor.device)
    if not _sharded(tensor):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, tensor.device_mesh, tensor.placements)


def _sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # importing DTensor, to ask for it, takes a while
