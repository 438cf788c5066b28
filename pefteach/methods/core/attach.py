"""Attach methods to a model, choose which adapters are active, and detach them.

attach  ->  LoRA.build: a LoRAPart for every layer  ->  PartsAdapter.insert: wrap the layers  ->  activate
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator

from torch import nn

from pefteach.methods.core.adapter import Adapter, Method, Registry, attached, find_adapter
from pefteach.model.modules import ADAPTERS, has_adapters


def attach(
    model: nn.Module, method: Method, name: str = "default", fill: Callable[[Adapter], None] | None = None
) -> Adapter:
    """Attach a method: freeze the base, and let the new adapter act and train. Other adapters are switched off;
    ``activate(model, "one", "two")`` lets several act.

    Args:
        name: what the adapter is called from now on.
        fill: sets the adapter's tensors before it enters the model; loading from a file does that.

    Raises:
        ValueError: the name is taken, or the method cannot apply; the model then works as before.
    """
    if name in attached(model):
        raise ValueError(f"an adapter named {name!r} is attached already: detach it first or choose another name")
    if not name or "." in name:
        raise ValueError(f"an adapter needs a name without dots, not {name!r}")
    with adapters_off(model):  # what is built now must see the base's own weights
        adapter = method.build(model, name)
        if fill is not None:
            fill(adapter)
    if not has_adapters(model):
        model.__dict__[ADAPTERS] = Registry({}, {p: p.requires_grad for p in model.parameters()})
        model.requires_grad_(False)
    adapter.insert()  # into the model: for LoRA, PartsAdapter.insert
    attached(model)[name] = adapter
    activate(model, name)
    return adapter


@contextlib.contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model is the bare base inside a ``with`` block; after it, adapters are active and merged as before."""
    active = [name for name, adapter in attached(model).items() if adapter.active]
    merged = [adapter for adapter in attached(model).values() if adapter.merged]
    activate(model)
    try:
        yield
    finally:
        activate(model, *active)
        for adapter in merged:
            adapter.merge()


def activate(model: nn.Module, *names: str) -> None:
    """Let these adapters act and train, and no others; with no names the bare base acts. Merged ones are unmerged.

    Raises:
        ValueError: an unknown name, or adapters that cannot act together; nothing has changed then.
    """
    known = attached(model)
    for name in names:
        find_adapter(model, name)  # raises for an unknown one
    for one, two in itertools.combinations(dict.fromkeys(names), 2):
        if place := known[one].conflict_with(known[two]):
            raise ValueError(
                f"adapters {one!r} and {two!r} both change {place}, and the result would depend on their order: "
                "activate one of them"
            )
    for name, adapter in known.items():  # off first: a TensorAdapter then puts the base's values back
        if name not in names:
            adapter.switch(False)
    for name, adapter in known.items():  # in the order of attachment, so that sums round alike
        if name in names:
            adapter.switch(True)


def detach(model: nn.Module, name: str = "default") -> None:
    """Remove an adapter; the base is what it was before, bit for bit.

    Raises:
        ValueError: no such adapter.
    """
    known = attached(model)
    find_adapter(model, name).switch(False)
    known.pop(name).remove()
    if not known:
        for parameter, flag in model.__dict__.pop(ADAPTERS).required_grad.items():
            parameter.requires_grad_(flag)
