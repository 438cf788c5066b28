"""Find the modules of a model that a method acts on, whatever family the model is of."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from pefteach.model.modules import base_module, base_modules, is_linear, output_layer


def find_linear(model: nn.Module, target_modules: str | Sequence[str]) -> dict[str, nn.Module]:
    """The linear layers that ``target_modules`` names, by path.

    Args:
        target_modules: last names ("q_proj"), longer endings ("self_attn.q_proj") or whole paths; or one
            string: "all-linear" (all but the output layer), or a regular expression for whole paths.

    Raises:
        ValueError: a name that fits no linear layer; the message lists the names that exist, nearest first.
    """
    head = output_layer(model)
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


def plain_names(target_modules: str | Sequence[str]) -> str | list[str]:
    """``target_modules`` as JSON stores it: a string or a list."""
    return target_modules if isinstance(target_modules, str) else list(target_modules)


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a model by path, first to last: its longest list of modules (model.layers, transformer.h …).

    A list inside a block does not count, however long: T5's blocks are lists of two or three layers.

    Raises:
        ValueError: a model without any list of modules.
    """
    lists = {path: module for path, module in base_modules(model) if isinstance(module, nn.ModuleList)}
    if not lists:
        raise ValueError("this model has no list of blocks")
    outer = {path: m for path, m in lists.items() if not any(path.startswith(f"{other}.") for other in lists)}
    path, blocks = max(outer.items(), key=lambda item: len(item[1]))
    return {f"{path}.{i}": base_module(model, f"{path}.{i}") for i in range(len(blocks))}


def attention_sizes(model: Any) -> tuple[int, int, int, int]:
    """(layers L, query heads H, key/value heads G, size d of a head), from the model's ``config``.

    Raises:
        ValueError: a model without these numbers in its config.
    """
    config = getattr(model, "config", None)
    layers, heads = getattr(config, "num_hidden_layers", None), getattr(config, "num_attention_heads", None)
    if layers is None or heads is None:
        raise ValueError(
            f"{type(model).__name__} has no config with num_hidden_layers and num_attention_heads: "
            "pass the course's Decoder or a Hugging Face model"
        )
    key_heads = getattr(config, "num_key_value_heads", None) or heads  # fewer than H under grouped-query attention
    return layers, heads, key_heads, getattr(config, "head_dim", None) or config.hidden_size // heads
