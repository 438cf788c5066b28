"""Two trackers of memory, each a ``with`` block: what autograd saves, and everything that is alive."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storage_id(tensor: Tensor) -> int:
    """The identity of the memory behind a tensor: views of one storage share it, and fake tensors have it too."""
    return tensor.untyped_storage()._cdata


class SavedActivations:
    """Counts what autograd saves for the backward pass, inside a ``with`` block.

    ``bytes`` holds the result. The model's own tensors are left out: they are in memory anyway. Several saved
    tensors may be views of one storage, which counts once. Keep the loss alive until you read the result: memory
    that is freed and used again inside the block could not be told apart.
    """

    def __init__(self, model: nn.Module):
        self._model = {storage_id(t) for t in (*model.parameters(), *model.buffers())}
        self._sizes: dict[int, int] = {}
        self._hooks = saved_tensors_hooks(self._save, lambda tensor: tensor)

    def __enter__(self) -> SavedActivations:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _save(self, tensor: Tensor) -> Tensor:
        if storage_id(tensor) not in self._model:
            self._sizes[storage_id(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    @property
    def storages(self) -> set[int]:
        """The identities of the saved memory."""
        return set(self._sizes)

    @property
    def bytes(self) -> int:
        """The bytes saved so far."""
        return sum(self._sizes.values())


# torch.distributed._tools.MemTracker does the same and more, but it hooks the gradient of every parameter, and raises
# on a frozen one. Here all are frozen but a few.
class LiveBytes(TorchDispatchMode):
    """Follows the memory of tensors inside a ``with`` block: what every operation makes, until it is freed.

    The tensors may be real or fake. ``now`` and ``peak`` hold the bytes, ``sizes`` the bytes of each storage. What an
    operation uses inside itself, and frees, is not seen.

    Args:
        held: tensors that are there already.
    """

    def __init__(self, held: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.peak = 0
        self.sizes: dict[int, int] = {}
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
        key, size = storage_id(tensor), storage.nbytes()
        if key not in self.sizes:  # else a view, or a result written in place
            self.sizes[key] = size
            self._ends[key] = weakref.ref(storage, lambda _: self._free(key))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _free(self, key: int) -> None:
        self.now -= self.sizes.pop(key)
        del self._ends[key]
