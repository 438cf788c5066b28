"""Put trained modules around modules of the base, and let a call pass through them.

A **part** wraps the call of one module: it may change what goes in and what comes out, and may call the module twice.
Parts on linear layers make LoRA and (IA)³, on the halves of a block bottleneck adapters, on attention modules
LLaMA-Adapter. A part on the model itself is a soft prompt or a prefix: the call it wraps has ``inputs_embeds``,
``attention_mask`` and ``past_key_values`` to lengthen.
"""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pefteach.methods.core.adapter import Adapter, Method, attached
from pefteach.methods.core.merging import merged_values
from pefteach.model.modules import ADAPTED_CALL, plain_module


class Part(nn.Module):
    """The trained module that an adapter puts around one module of the base.

    ``composes_as`` is for parts whose order on a module does not matter: parts of two adapters may be active together
    on one module if they say the same word, such as "adds" or "scales". With None a part shares its module with no
    other.

    ``frozen`` names parameters that never train. The parts of an adapter may have such a parameter in common: it is
    then one tensor in memory, and moves and is copied with the model.
    """

    composes_as: ClassVar[str | None] = None
    frozen: ClassVar[tuple[str, ...]] = ()

    def forward(self, call, *args, **kwargs):
        """Replaces one call of the base module: ``call`` is that module, or the part below this one."""
        raise NotImplementedError

    def merged_weight(self, layer: Any) -> Tensor:
        """The weight that makes ``layer`` alone behave like layer and part together, in the layer's own layout.

        Raises:
            ValueError: the part is not linear in the weight.
        """
        raise ValueError(f"{type(self).__name__} is not linear in the weight, so it cannot be merged into it")

    def merged_bias(self, layer: Any) -> Tensor:
        """The bias that goes with it: the layer's own, unless the part acts on the bias as well."""
        return layer.bias


class AdaptedModule(nn.Module):
    """Wraps a module of the base and calls it through its active parts.

    ``base_layer`` is peft's name for that module; around the model itself it is the model's own ``forward``.
    ``parts`` holds the part of every adapter by the adapter's name, ``active`` those that act, innermost first.
    """

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer, self.parts = base_layer, nn.ModuleDict()
        self.active: tuple[Part, ...] = ()

    def forward(self, *args, **kwargs):
        # Looked up here at every call, since quantising puts another layer there; and in the module's own tables, since
        # `self.base_layer` would go through __getattr__ below.
        call = self._modules.get("base_layer") or self.__dict__["base_layer"]
        for part in self.active:
            call = functools.partial(part, call)
        return call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:  # q_proj.weight, q_proj.in_features … are still the layer's
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)


class PartsAdapter(Adapter):
    """An adapter made of parts, one per module path."""

    def __init__(self, method: Method, model: nn.Module, name: str, parts: Mapping[str, Part]):
        super().__init__(method, model, name)
        self.parts: Mapping[str, Part] = parts
        self._originals: dict[nn.Parameter, Tensor] = {}
        for path, part in parts.items():
            tensors = itertools.chain(plain_module(model, path).parameters(), model.parameters())  # a dropout has none
            part.to(next(tensors).device).train(model.training)

    def trained_tensors(self) -> dict[str, nn.Parameter]:
        return {
            f"base_model.model.{path}.{key}": parameter
            for path, part in self.parts.items()
            for key, parameter in part.named_parameters()
            if key not in part.frozen
        }

    def training_state(self) -> dict[str, Tensor]:
        return {f"{path}.{key}": b for path, part in self.parts.items() for key, b in part.named_buffers()}

    def conflict_with(self, other: Adapter) -> str | None:
        if not isinstance(other, PartsAdapter):
            return None
        for path, part in self.parts.items():
            if path in other.parts and (part.composes_as is None or part.composes_as != other.parts[path].composes_as):
                return path or "the whole model"
        return None

    def insert(self) -> None:
        for path, part in self.parts.items():
            _wrap(self.model, path).parts[self.name] = part

    def remove(self) -> None:
        if self.merged:
            self.unmerge()
        for path in self.parts:
            adapted = _wrap(self.model, path)
            del adapted.parts[self.name]
            if not adapted.parts:
                _unwrap(self.model, path)

    def switch(self, on: bool) -> None:
        if self.merged:
            self.unmerge()
        super().switch(on)
        self._set_active(on)

    def _set_active(self, on: bool) -> None:
        for path, part in self.parts.items():
            adapted = _wrap(self.model, path)
            others = tuple(other for other in adapted.active if other is not part)
            adapted.active = (*others, part) if on else others

    @torch.no_grad()
    def merge(self) -> None:
        if not self.method.can_merge:
            super().merge()
        if not self.active:
            raise ValueError(f"adapter {self.name!r} is switched off: activate it before merging")
        if any(a.merged for a in attached(self.model).values()):
            raise ValueError("an adapter is merged already: unmerge it first, or its effect would count twice")
        layers = {path: plain_module(self.model, path) for path in self.parts}
        new = merged_values(self.model, layers, self.parts)
        for parameter, value in new.items():
            self._originals[parameter] = parameter.detach().clone()  # computing it back would not be bit-exact
            parameter.copy_(value)
        self.merged = True
        self._set_active(False)

    @torch.no_grad()
    def unmerge(self) -> None:
        if not self.merged:
            super().unmerge()
        for parameter, value in self._originals.items():
            parameter.copy_(value)
        self._originals, self.merged = {}, False
        self._set_active(self.active)


def _wrap(model: Any, path: str) -> AdaptedModule:
    """The :class:`AdaptedModule` at a path, put there if need be. The empty path is the model itself."""
    if path == "":
        if ADAPTED_CALL not in model._modules:
            # The caller holds this very object, so its `forward` is redirected instead: to a bound method, which a copy
            # of the model binds to itself.
            model.adapted_call = AdaptedModule(model.forward)
            led = functools.wraps(type(model).forward)(lambda self, *args, **kwargs: self.adapted_call(*args, **kwargs))
            model.forward = types.MethodType(led, model)
        return model.adapted_call
    module = model.get_submodule(path)
    if not isinstance(module, AdaptedModule):
        module = AdaptedModule(module)
        parent, _, name = path.rpartition(".")
        setattr(plain_module(model, parent), name, module)  # the parent may be wrapped too
    return module


def _unwrap(model: nn.Module, path: str) -> None:
    """Put the base's own module back at a path."""
    if path == "":
        del model.forward, model.adapted_call
        return
    parent, _, name = path.rpartition(".")
    setattr(plain_module(model, parent), name, model.get_submodule(path).base_layer)
