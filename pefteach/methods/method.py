"""What all methods share: find the targets, attach, switch, detach, save and load.

A **method** is a description (``LoRA(rank=8)``). ``attach(model, method)`` turns it into an **adapter** on that
model. There are two ways for an adapter to act, and every technique is one of them or both:

* a **part** wraps the call of one module (:class:`Part`): it may change what goes in, what comes out, or not
  call the module at all. A part on a linear layer is LoRA, on an MLP a bottleneck adapter, on a whole
  attention module LLaMA-Adapter, and on the model itself a soft prompt: the call it wraps then has
  ``inputs_embeds``, ``attention_mask`` and ``past_key_values`` to lengthen, and logits to trim;
* a choice of the base's own tensors (:class:`TensorAdapter`) is trained in place: full fine-tuning, BitFit.

Budgets that change while training live in :meth:`Adapter.after_step`, regularisers in :meth:`Adapter.penalty`;
``fit`` calls both.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Part(nn.Module):
    """What one adapter adds to one module of the model."""

    def forward(self, call, *args, **kwargs):
        """Stand in for ``call(*args, **kwargs)``, where ``call`` is the module, or the part beneath this one."""
        raise NotImplementedError

    def merged_weight(self, layer: Any) -> Tensor:
        """The weight that makes ``layer`` alone behave like layer and part together, in the layer's own layout."""
        raise ValueError(f"{type(self).__name__} is not linear in the weight, so it cannot be merged into it")


class Adapted(nn.Module):
    """Stands where a module of the base stood, and leads its call through the active parts."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer, self.parts, self.active = base_layer, nn.ModuleDict(), ()

    def forward(self, *args, **kwargs):
        call = self.base_layer
        for name in self.active:
            call = _around(self.parts[name], call)
        return call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:  # q_proj.weight, q_proj.in_features … are still the layer's
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)


def _around(part: Part, call: Callable) -> Callable:
    return lambda *args, **kwargs: part(call, *args, **kwargs)


class Method:
    """The description of a technique: a dataclass of its settings. Subclasses say how to build the adapter."""

    peft_type: ClassVar[str | None] = None  # peft's name for it, None where peft does not have it

    def build(self, model: nn.Module, name: str) -> Adapter:
        """Make the adapter without touching the model, or raise a ValueError that says why it cannot apply."""
        raise NotImplementedError

    def to_peft(self) -> dict:
        """Its settings as ``adapter_config.json`` has them."""
        raise NotImplementedError

    @classmethod
    def from_peft(cls, config: dict) -> Method:
        """The method that an ``adapter_config.json`` describes."""
        raise NotImplementedError


class Adapter:
    """A method attached to a model under a name."""

    def __init__(self, method: Method, model: nn.Module, name: str):
        self.method, self.model, self.name, self.active, self.merged = method, model, name, False, False

    def tensors(self) -> dict[str, nn.Parameter]:
        """What is trained and stored, under peft's names."""
        raise NotImplementedError

    def insert(self) -> None:
        """Put it into the model, not active yet."""

    def remove(self) -> None:
        """Take it out again."""

    def switch(self, on: bool) -> None:
        """Let it act, or not."""
        self.active = on
        for parameter in self.tensors().values():
            parameter.requires_grad_(on)

    def penalty(self) -> Tensor | float:
        """A term for the training loss."""
        return 0.0

    def after_step(self, step: int, steps: int) -> None:
        """Called after optimiser step number ``step`` of ``steps``, while the gradients are still there."""

    def merge(self) -> None:
        """Write the adapter's effect into the base's weights, so that it costs nothing to run."""
        raise ValueError(f"{type(self.method).__name__} changes no weight matrix, so there is nothing to merge")

    def unmerge(self) -> None:
        """Bring the base's own weights back, bit for bit."""
        raise ValueError(f"adapter {self.name!r} is not merged")


class PartsAdapter(Adapter):
    """An adapter made of parts, one per module path."""

    def __init__(self, method: Method, model: nn.Module, name: str, parts: dict[str, Part]):
        super().__init__(method, model, name)
        self.parts = parts
        self._originals: dict[str, Tensor] = {}
        for path, part in parts.items():
            module = plain_module(model, path)
            part.to(next(module.parameters()).device).train(model.training)

    def tensors(self) -> dict[str, nn.Parameter]:
        return {
            f"base_model.model.{path}.{key}": parameter
            for path, part in self.parts.items()
            for key, parameter in part.named_parameters()
        }

    def insert(self) -> None:
        for path, part in self.parts.items():
            _adapted(self.model, path).parts[self.name] = part

    def remove(self) -> None:
        if self.merged:
            self.unmerge()
        for path in self.parts:
            adapted = _adapted(self.model, path)
            del adapted.parts[self.name]
            if not adapted.parts:
                _restore(self.model, path)

    def switch(self, on: bool) -> None:
        if self.merged:
            self.unmerge()
        super().switch(on)
        self._show(on)

    def _show(self, on: bool) -> None:
        for path in self.parts:
            adapted = _adapted(self.model, path)
            others = tuple(n for n in adapted.active if n != self.name)
            adapted.active = (*others, self.name) if on else others

    @torch.no_grad()
    def merge(self) -> None:
        if not self.active:
            raise ValueError(f"adapter {self.name!r} is switched off: activate it before merging")
        if any(a.merged for a in adapters(self.model).values()):
            raise ValueError("an adapter is merged already: unmerge it first, or its effect would count twice")
        new = {path: part.merged_weight(plain_module(self.model, path)) for path, part in self.parts.items()}
        for path, weight in new.items():
            if not weight.isfinite().all():
                raise ValueError(f"merging would write values that are not finite into {path}")
        for path, weight in new.items():
            layer = plain_module(self.model, path)
            self._originals[path] = layer.weight.detach().clone()  # subtracting again would not be bit-exact
            layer.weight.copy_(weight)
        self.merged = True
        self._show(False)

    @torch.no_grad()
    def unmerge(self) -> None:
        if not self.merged:
            super().unmerge()
        for path, weight in self._originals.items():
            plain_module(self.model, path).weight.copy_(weight)
        self._originals, self.merged = {}, False
        self._show(self.active)


class TensorAdapter(Adapter):
    """An adapter that trains tensors of the base in place, and remembers what they were."""

    def __init__(self, method: Method, model: nn.Module, name: str, chosen: dict[str, nn.Parameter]):
        super().__init__(method, model, name)
        self.chosen = chosen
        # Values that are not in the model at present: the trained ones while switched off, else the base's.
        self._stored = {key: p.detach().clone() for key, p in chosen.items()}

    def tensors(self) -> dict[str, nn.Parameter]:
        return self.chosen

    def values(self) -> Mapping[str, Tensor]:
        """The trained values, wherever they are now."""
        return self.chosen if self.active else self._stored

    @torch.no_grad()
    def switch(self, on: bool) -> None:
        if on != self.active:
            for key, p in self.chosen.items():
                now = p.detach().clone()
                p.copy_(self._stored[key])
                self._stored[key] = now
        super().switch(on)

    def remove(self) -> None:
        self.switch(False)


@dataclass
class _Registry:
    adapters: dict[str, Adapter]
    requires_grad: dict[nn.Parameter, bool]


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """The adapters on this model, by name."""
    registry = model.__dict__.get("_pefteach")
    return registry.adapters if registry else {}


def attach(
    model: nn.Module, method: Method, name: str = "default", fill: Callable[[Adapter], None] | None = None
) -> Adapter:
    """Attach a method: the base is frozen, the adapter's tensors train, and it alone is active.

    Args:
        fill: sets the adapter's tensors before it enters the model; loading from a file does that.

    Raises:
        ValueError: the name is taken, or the method cannot apply; the model then works as before.
    """
    if name in adapters(model):
        raise ValueError(f"an adapter named {name!r} is attached already: detach it first or choose another name")
    if not name or "." in name:
        raise ValueError(f"an adapter needs a name without dots, not {name!r}")
    active = [n for n, adapter in adapters(model).items() if adapter.active]
    activate(model)  # what is built now starts from the bare base
    try:
        adapter = method.build(model, name)
        if fill is not None:
            fill(adapter)
    except Exception:
        activate(model, *active)
        raise
    if "_pefteach" not in model.__dict__:
        model.__dict__["_pefteach"] = _Registry({}, {p: p.requires_grad for p in model.parameters()})
        model.requires_grad_(False)
    adapter.insert()
    adapters(model)[name] = adapter
    activate(model, name)
    return adapter


def activate(model: nn.Module, *names: str) -> None:
    """Let these adapters act and train, and no others; with no names the bare base acts.

    Raises:
        ValueError: an unknown name.
    """
    known = adapters(model)
    for name in names:
        if name not in known:
            raise ValueError(f"no adapter named {name!r} here; attached are: {', '.join(known) or 'none'}")
    for name, adapter in known.items():  # off first: in-place adapters hand the base's values back
        if name not in names:
            adapter.switch(False)
    for name in names:
        known[name].switch(True)


def detach(model: nn.Module, name: str = "default") -> None:
    """Remove an adapter; the base is what it was before, bit for bit.

    Raises:
        ValueError: no such adapter.
    """
    known = adapters(model)
    if name not in known:
        raise ValueError(f"no adapter named {name!r} here; attached are: {', '.join(known) or 'none'}")
    known[name].switch(False)
    known.pop(name).remove()
    if not known:
        for parameter, flag in model.__dict__.pop("_pefteach").requires_grad.items():
            parameter.requires_grad_(flag)


def plain_module(model: nn.Module, path: str) -> Any:
    """The base's own module at a path, whether or not adapters wrap it."""
    module = model.get_submodule(path)
    return module.base_layer if isinstance(module, Adapted) else module


def base_modules(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every module of the base with its path, as if no adapter were there."""
    for name, child in model.named_children():
        if name == "adapted_call":
            continue
        child = child.base_layer if isinstance(child, Adapted) else child
        full = f"{path}.{name}" if path else name
        yield full, child
        yield from base_modules(child, full)


def base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter of the base with its name, as if no adapter were there (a tied one once)."""
    found: dict[str, nn.Parameter] = {}
    for path, module in [("", model), *base_modules(model)]:
        for name, parameter in module.named_parameters(recurse=False):
            if not any(parameter is seen for seen in found.values()):
                found[f"{path}.{name}" if path else name] = parameter
    return found


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by one matrix: ``nn.Linear``, or GPT-2's ``Conv1D``."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def linear_shape(layer: Any) -> tuple[int, int]:
    """(in, out) of a linear layer. GPT-2's ``Conv1D`` stores its weight as (in, out), ``nn.Linear`` as (out, in)."""
    return (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else tuple(layer.weight.shape)


def find_linear(model: nn.Module, target_modules: str | Sequence[str]) -> dict[str, nn.Module]:
    """The linear layers that are meant, by path.

    Args:
        target_modules: last names ("q_proj"), longer endings ("self_attn.q_proj") or whole paths; or one
            string: "all-linear" (all but the output layer), or a regular expression for whole paths.

    Raises:
        ValueError: a name that fits no linear layer; the message lists the names that exist, nearest first.
    """
    head = getattr(model, "get_output_embeddings", lambda: getattr(model, "lm_head", None))()
    linear = {path: m for path, m in base_modules(model) if is_linear(m)}
    if target_modules == "all-linear":
        return {path: m for path, m in linear.items() if m is not head and plain_module(model, path) is not head}
    if isinstance(target_modules, str):
        fits = {target_modules: [p for p in linear if re.fullmatch(target_modules, p)]}
    else:
        fits = {t: [p for p in linear if p == t or p.endswith("." + t)] for t in target_modules}
    names = list(dict.fromkeys(path.rsplit(".", 1)[-1] for path in linear))
    for target, paths in fits.items():
        if not paths:
            near = difflib.get_close_matches(target, names, len(names), 0.0)
            listed = ", ".join(near + [n for n in names if n not in near])
            raise ValueError(f"no linear layer is called {target!r}; this model has: {listed or 'none'}")
    if not fits:
        raise ValueError("target_modules is empty: name at least one layer, or say 'all-linear'")
    wanted = {path for paths in fits.values() for path in paths}
    return {path: m for path, m in linear.items() if path in wanted}


def _adapted(model: Any, path: str) -> Adapted:
    """The :class:`Adapted` at a path, put there if need be. The empty path is the model itself."""
    if path == "":
        if "adapted_call" not in model._modules:
            # The caller holds this very object, so it cannot be replaced: its forward is led through instead.
            model.adapted_call = adapted = Adapted(model.forward)
            model.forward = functools.wraps(model.forward)(lambda *args, **kwargs: adapted(*args, **kwargs))
        return model.adapted_call
    module = model.get_submodule(path)
    if not isinstance(module, Adapted):
        module = Adapted(module)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module)
    return module


def _restore(model: nn.Module, path: str) -> None:
    if path == "":
        del model.forward, model.adapted_call
        return
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, model.get_submodule(path).base_layer)
