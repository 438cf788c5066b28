"""Find the modules of a model that a method acts on, whatever family the model is of."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from pefteach.methods.method import Adapted, is_linear, plain_module


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
    head = head.base_layer if isinstance(head, Adapted) else head
    linear = {path: m for path, m in base_modules(model) if is_linear(m)}
    if target_modules == "all-linear":
        return {path: m for path, m in linear.items() if m is not head}
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


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a model by path, first to last: its longest list of modules (model.layers, transformer.h …).

    Raises:
        ValueError: a model without any list of modules.
    """
    lists = {path: module for path, module in base_modules(model) if isinstance(module, nn.ModuleList)}
    if not lists:
        raise ValueError("this model has no list of blocks")
    path, blocks = max(lists.items(), key=lambda item: len(item[1]))
    return {f"{path}.{i}": plain_module(model, f"{path}.{i}") for i in range(len(blocks))}
