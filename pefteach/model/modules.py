"""Find the base's own modules and tensors in a model of any family, with or without adapters.

A wrapper around a module of the base keeps that module as ``base_layer``, as in peft. The wrapper around the whole
model is a module called ``adapted_call``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

ADAPTED_CALL = "adapted_call"
ADAPTERS = "_pefteach"  # the attribute in which a model keeps the record of its adapters


def has_adapters(model: nn.Module) -> bool:
    """Whether anything is attached to this model."""
    return ADAPTERS in model.__dict__


def unwrapped(module: nn.Module) -> Any:
    """The base's own module: this one, or the one inside it if it is a wrapper."""
    return module._modules.get("base_layer", module)


def base_module(model: nn.Module, path: str) -> Any:
    """The base's own module at a path, whether or not adapters wrap it."""
    return unwrapped(model.get_submodule(path))


def put_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Let ``module`` stand at a path, in the place of what stands there, an adapter's wrapper too."""
    parent, _, name = path.rpartition(".")
    setattr(base_module(model, parent), name, module)  # the parent may be wrapped


def base_modules(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every module of the base with its path, as if no adapter were there."""
    for name, child in model.named_children():
        if name == ADAPTED_CALL:
            continue
        child = unwrapped(child)
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


def linear_shape(layer: Any) -> tuple[int, int]:
    """(in, out) of a linear layer. GPT-2's ``Conv1D`` stores its weight as (in, out), ``nn.Linear`` as (out, in)."""
    return (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else tuple(layer.weight.shape)


def output_layer(model: Any) -> nn.Module | None:
    """The layer that scores the vocabulary; None in a model that has none."""
    head = getattr(model, "get_output_embeddings", lambda: getattr(model, "lm_head", None))()
    return head if head is None else unwrapped(head)


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors under the names they have without adapters, and none of the adapters'."""
    state = model.state_dict()
    return {key.replace("base_layer.", ""): tensor for key, tensor in state.items() if ".parts." not in key}


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by one matrix: ``nn.Linear``, or GPT-2's ``Conv1D``."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
