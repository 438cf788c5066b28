"""Put trained modules around modules of the base, and let a call pass through them.

A **part** wraps the call of one module: it may change what goes in and what comes out, and may call the module twice.
LoRA and (IA)³ wrap linear layers, bottleneck adapters the halves of a block, and LLaMA-Adapter the attention. A soft
prompt or a prefix wraps the whole model, whose call has ``inputs_embeds``, ``attention_mask`` and ``past_key_values``
to lengthen. With LoRA on ``q_proj``, a forward pass goes

    q_proj(x)  ->  AdaptedModule.forward(x)  ->  part(call, x)  ->  LowRankPart.forward: call(x) + LoRAPart.update(x)

where ``call`` is the ``q_proj`` of the base. With two adapters, the second one's ``call`` runs the base and the first
one's part; both see the same x, so the result is W x + ΔW₁ x + ΔW₂ x.
"""

from __future__ import annotations

import functools
import types
from typing import Any, ClassVar

from torch import Tensor, nn

from pefteach.model.modules import ADAPTED_CALL, put_module


class Part(nn.Module):
    """The trained module that an adapter puts around one module of the base.

    ``composes_as`` is for parts whose order on a module does not matter: parts of two adapters may be active together
    on one module if their ``composes_as`` is equal, such as "adds" or "scales". With None a part shares its module with
    no other.

    ``frozen`` names parameters that never train. The parts of an adapter may have such a parameter in common: it is
    then one tensor in memory, and moves and is copied with the model.
    """

    composes_as: ClassVar[str | None] = None
    frozen: ClassVar[tuple[str, ...]] = ()

    def forward(self, call, *args, **kwargs):
        """Replaces one call of the base module.

        ``call(*args, **kwargs)`` runs everything inside this part: the base module, with another adapter's part around
        it if that is active too.
        """
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

    Attributes:
        base_layer: that module, under peft's name for it; around the model itself, the model's own ``forward``.
        parts: every adapter's part, by the adapter's name.
        active_parts: those that act, innermost first.
    """

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer, self.parts = base_layer, nn.ModuleDict()
        self.active_parts: tuple[Part, ...] = ()

    def forward(self, *args, **kwargs):
        # A module is in _modules, the model's own forward in __dict__; `self.base_layer` would take a detour through
        # __getattr__ at every call.
        call = self.__dict__.get("base_layer") or self._modules["base_layer"]
        for part in self.active_parts:
            call = functools.partial(part, call)
        return call(*args, **kwargs)

    # q_proj.weight is still the layer's weight, and mlp.up_proj is still found in a wrapped mlp.
    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)


def wrap(model: Any, path: str) -> AdaptedModule:
    """Put an :class:`AdaptedModule` around the module at a path, unless there is one. The empty path is the model."""
    if path == "":
        return wrap_model(model)
    module = model.get_submodule(path)
    if not isinstance(module, AdaptedModule):
        module = AdaptedModule(module)
        put_module(model, path, module)
    return module


def wrap_model(model: Any) -> AdaptedModule:
    """Put an :class:`AdaptedModule` around the model itself, unless there is one.

    The caller holds this very object, so its ``forward`` is redirected instead: to a bound method, which a copy of the
    model binds to itself.
    """
    if ADAPTED_CALL not in model._modules:
        model.adapted_call = AdaptedModule(model.forward)
        redirected = lambda self, *args, **kwargs: self.adapted_call(*args, **kwargs)
        model.forward = types.MethodType(functools.wraps(type(model).forward)(redirected), model)
    return model.adapted_call


def adapted_module(model: Any, path: str) -> AdaptedModule:
    """The :class:`AdaptedModule` at a path."""
    return model.adapted_call if path == "" else model.get_submodule(path)


def unwrap(model: Any, path: str) -> None:
    """Put the base's own module back at a path."""
    if path == "":
        del model.forward, model.adapted_call  # the forward of the model's class shows again
    else:
        put_module(model, path, model.get_submodule(path).base_layer)
