"""Adapt the mask and the positions of a call, and check its length, when trained vectors join the text.

Prompts in the sequence and prefixes in the cache stand before the text and shift it by n. LLaMA-Adapter's prompts have
no position.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pefteach.methods.core.wrapping import Part


def argument_names(model: nn.Module) -> list[str]:
    """The names of the arguments of a model's call, in order."""
    return list(inspect.signature(model.forward).parameters)


def text_shape(inputs: dict[str, Any]) -> tuple[int, int]:
    """(B, T) of the tokens that a call brings, as ids or as embeddings."""
    text = inputs["inputs_embeds"] if inputs.get("input_ids") is None else inputs["input_ids"]
    return text.shape[0], text.shape[1]


def extend(n: int, tokens: int, inputs: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Make room in the mask and the positions of a call for ``n`` vectors that the caller does not know of.

    The mask (B, S) becomes (B, n + S). The positions (B, T) of the T new tokens go up by n. Where the caller gives
    none, they count the mask's ones, so that padding on the left changes nothing; with neither, the model counts.

    Args:
        tokens: T, how many tokens this call brings. S counts those in the cache too.
        inputs: the call's keyword arguments; not changed.
        names: the arguments that the model takes, see :func:`argument_names`.

    Raises:
        ValueError: the mask is not (B, S), so it does not say which columns are tokens.
    """
    inputs = dict(inputs)
    inputs.pop("cache_position", None)  # counted without the n vectors; the model counts again
    mask, positions = inputs.get("attention_mask"), inputs.pop("position_ids", None)
    if mask is not None:
        if mask.ndim != 2:
            raise ValueError(f"the attention mask must be (rows, tokens) here, not {tuple(mask.shape)}")
        if positions is None:
            positions = (mask.long().cumsum(-1) - 1)[:, -tokens:]  # padding on the left: -1, then n - 1
        inputs["attention_mask"] = torch.cat([mask.new_ones(len(mask), n), mask], 1)
    if positions is not None and "position_ids" in names:
        inputs["position_ids"] = positions + n
    return inputs


def check_length(config: Any, n: int, tokens: int) -> None:
    """Refuse a call that needs more positions than the model has.

    Args:
        config: the model's.
        n: how many vectors.
        tokens: how many of the text, the cached ones included.

    Raises:
        ValueError: more than ``max_position_embeddings`` together.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and n + tokens > limit:
        raise ValueError(
            f"{n} prompt vectors and {tokens} tokens are more than the {limit} positions of this model: "
            "shorten the text or take fewer vectors"
        )


class NumberingPart(Part):
    """Numbers the tokens from the first real one on, if the caller gives no positions.

    RoPE depends on distances alone, so padding on the left does not change a Llama. LLaMA-Adapter's prompts have no
    position, though: their scores depend on the number of each token, which padding must not change.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names = argument_names(model)

    def forward(self, call: Callable, *args: Any, **kwargs: Any) -> Any:
        inputs = dict(zip(self.names, args)) | kwargs
        mask = inputs.get("attention_mask")  # (B, S)
        if mask is not None and mask.ndim == 2 and inputs.get("position_ids") is None:
            _, new = text_shape(inputs)
            places = torch.arange(mask.shape[1], device=mask.device) - mask.long().argmax(1, keepdim=True)
            inputs["position_ids"] = places[:, -new:].clamp(min=0)  # (B, T)
        return call(**inputs)
