"""Masks and positions when vectors of ours stand in front of the text, in the sequence or in the cache."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn


def argument_names(model: nn.Module) -> list[str]:
    """The names of the arguments of a model's call, in order."""
    return list(inspect.signature(model.forward).parameters)


def extend(n: int, tokens: int, inputs: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The inputs of a call as they must be behind ``n`` vectors that the caller knows nothing of.

    The mask (B, S) becomes (B, n + S). The T new tokens are numbered from n on, padding not counted, so that
    padding on the left changes nothing: position_ids (B, T). Without a mask the model counts on by itself.

    Args:
        tokens: T, how many tokens this call brings; the cache may hold earlier ones (S >= T).
        inputs: the call's keyword arguments; left as they are.
        names: the arguments that the model takes, see :func:`argument_names`.

    Raises:
        ValueError: a mask that is not (B, S), where there is no telling which columns are tokens.
    """
    inputs = dict(inputs)
    inputs.pop("cache_position", None)  # counted without our vectors; the model counts anew
    mask, positions = inputs.get("attention_mask"), inputs.pop("position_ids", None)
    if mask is not None:
        if mask.ndim != 2:
            raise ValueError(f"the attention mask must be (rows, tokens) here, not {tuple(mask.shape)}")
        if positions is None:
            positions = (mask.long().cumsum(-1) - 1)[:, -tokens:]  # -1 at padding on the left: nobody looks there
        inputs["attention_mask"] = torch.cat([mask.new_ones(len(mask), n), mask], 1)
    if positions is not None and "position_ids" in names:
        inputs["position_ids"] = positions + n
    return inputs


def check_length(config: Any, n: int, tokens: int) -> None:
    """Refuse a call that would need positions the model was not built with.

    Args:
        config: the model's.
        n: our vectors; tokens: those of the text, the cached ones included.

    Raises:
        ValueError: more than ``max_position_embeddings`` together.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and n + tokens > limit:
        raise ValueError(
            f"{n} prompt vectors and {tokens} tokens are more than the {limit} positions this model knows: "
            "shorten the text or take fewer vectors"
        )
