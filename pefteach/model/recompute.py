"""Trade time for memory: compute activations again instead of keeping them."""

from __future__ import annotations

from typing import Any


def recompute_blocks(model: Any) -> None:
    """Recompute the blocks of a Hugging Face model on the backward pass (Chen et al. 2016, "Sublinear Memory Cost").

    The older, reentrant kind gives no gradients at all unless the input of the first block requires one, which under
    a frozen embedding nothing makes it do. The kind used here does not depend on it.

    Raises:
        ValueError: a model that does not know how.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ValueError(f"{type(model).__name__} cannot recompute its blocks: train it without checkpointing")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.config.use_cache = False  # a cache would be filled twice
