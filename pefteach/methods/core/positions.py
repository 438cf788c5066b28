"""Mask, positions and length of a call when vectors of ours come in beside the text.

Prompts in the sequence and prefixes in the cache stand before the text and push it on by n. LLaMA-Adapter's prompts
stand at no position.
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
    """The inputs of a call, with a mask and positions that make room for ``n`` vectors the caller knows nothing of.

    The mask (B, S) becomes (B, n + S). The positions (B, T) of the T new tokens go up by n. Where the caller gives
    none, they count the mask's ones, so that padding on the left changes nothing; with neither, the model counts.

    Args:
        tokens: T, how many tokens this call brings. S counts those in the cache too.
        inputs: the call's keyword arguments; not changed.
        names: the arguments that the model takes, see :func:`argument_names`.

    Raises:
        ValueError: a mask that is not (B, S), where there is no telling which columns are tokens.
    """
    inputs = dict(inputs)
    inputs.pop("cache_position", None)  # counted without the n vectors; the model counts anew
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
    """Refuse a call that would need positions the model was not built with.

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
            f"{n} prompt vectors and {tokens} tokens are more than the {limit} positions this model knows: "
            "shorten the text or take fewer vectors"
        )


class NumberingPart(Part):
    """Numbers the tokens from the first real one on, where the caller does not.

    RoPE sees distances alone, so a Llama does not mind padding on the left. The prompts stand at no position, though:
    to them every token has the position that it is numbered with, and padding must not move it.
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
