"""Find the module of a model that takes a key/value cache, and make an empty cache for it, in any family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pefteach.methods.core.positions import argument_names
from pefteach.model.decoder import Decoder, KVCache
from pefteach.model.modules import base_module


def find_cached(model: Any) -> str:
    """The path of the module whose call takes ``past_key_values``: the model itself, or the body below BERT's head.

    Raises:
        ValueError: no module takes one, or the model has two stacks.
    """
    name, names = type(model).__name__, argument_names(model)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ValueError(f"a prefix needs one stack with one cache, and {name} has an encoder and a decoder: use LoRA")
    for path in ("", getattr(model, "base_model_prefix", "")):
        if "past_key_values" in argument_names(base_module(model, path)):
            return path
    raise ValueError(f"a prefix needs a model whose call takes past_key_values, and {name} takes {', '.join(names)}: "
                     "pass the course's Decoder or a Hugging Face model")  # fmt: skip


def cache_type(model: Any) -> Callable[[], Any]:
    """The class of the cache that the model's call takes: the course's own, or that of transformers."""
    if isinstance(model, Decoder):
        return KVCache
    from transformers import DynamicCache  # slow to import, and the course's decoder does not need it

    return DynamicCache
