"""Trade time for memory: compute activations again instead of keeping them."""

from __future__ import annotations

from typing import Any


def recompute_blocks(model: Any) -> None:
    """Recompute the blocks of a Hugging Face model on the backward pass (Chen et al. 2016, "Sublinear Memory Cost").

    Torch's older, reentrant kind gives no gradients unless the input of the first block requires one, and behind a
    frozen embedding it does not. The kind used here needs no such input.

    Raises:
        ValueError: the model does not support it.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ValueError(f"{type(model).__name__} cannot recompute its blocks: train it without checkpointing")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.config.use_cache = False  # a cache would be filled twice
