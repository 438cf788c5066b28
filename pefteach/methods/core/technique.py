"""One row of the list of techniques: all that the checks need to know about one technique."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pefteach.methods.core.adapter import Method

# The families of tiny models that techniques are tried on, and the part of them that a technique is for.
EVERYWHERE = ("ours", "llama", "qwen2", "gpt2", "bert", "t5")
ONE_STACK = ("ours", "llama", "qwen2", "gpt2", "bert")  # one place for a prompt, one list of blocks
DECODERS = ("ours", "llama", "qwen2", "gpt2")  # those that generate

NO_INPUTS: Callable[[int], Mapping[str, Tensor]] = lambda rows: {}


@dataclass(frozen=True)
class Technique:
    """One technique, or one variant of it.

    Attributes:
        method: settings for a tiny model at which faults show, such as r ≠ alpha. The checks fill in
            ``target_modules``, because the names of layers differ from family to family.
        equals: the library that it is compared with: "peft", "adapters", or None where none has it.
        families: the families of models that it works on.
        unequal: families where the library lacks the method or computes it wrongly.
        inputs: gives further inputs for a batch of so many rows, for ours and the library's.
        timed: settings for the benchmark, by the name of its row.
        near_floor: whether the benchmark also compares it with the least that a training step could cost.
    """

    method: Method
    equals: str | None = None
    families: tuple[str, ...] = EVERYWHERE
    unequal: tuple[str, ...] = ("ours",)
    inputs: Callable[[int], Mapping[str, Tensor]] = NO_INPUTS
    timed: Mapping[str, Method] = field(default_factory=dict)
    near_floor: bool = False
