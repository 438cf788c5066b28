"""Every technique with its settings for every family of tiny models, from the one list in ``pefteach.methods``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import Tensor

from pefteach.methods import IA3, TECHNIQUES, BitFit, Method
from pefteach.workshop.parity.families import ROWS

# Some of these linear layers are not square, so a transposed matrix cannot pass.
TARGETS: dict[str, list[str]] = {
    "ours": ["q_proj", "v_proj", "down_proj"],
    "llama": ["q_proj", "v_proj", "down_proj"],
    "qwen2": ["k_proj", "o_proj", "up_proj"],
    "gpt2": ["c_attn", "mlp.c_proj"],
    "bert": ["query", "value", "intermediate.dense"],
    "t5": ["q", "v", "wo"],
}


KEYS_VALUES_FFN: dict[str, tuple[list[str] | str, list[str] | str]] = {  # for (IA)³: all targets, the feed-forward ones
    "ours": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "qwen2": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "bert": (
        r".*(key|value|layer\.\d+\.output\.dense)",
        r".*layer\.\d+\.output\.dense",
    ),  # attention has output.dense too
    "t5": (["k", "v", "wo"], ["wo"]),
}


@dataclass(frozen=True)
class ParityCase:
    """One technique on tiny models.

    Attributes:
        methods: its settings, by family.
        reference: the library that it is compared with; None if no library has it.
        compared_on: the families on which it is compared.
        inputs: further inputs of the batch, for both implementations.
    """

    methods: dict[str, Method]
    reference: str | None = "peft"
    compared_on: tuple[str, ...] = ()
    inputs: Mapping[str, Tensor] = field(default_factory=dict)


def for_family(method: Any, family: str) -> Method:
    """The method with target layers of this family, some of them not square."""
    if isinstance(method, IA3):
        return IA3(*KEYS_VALUES_FFN[family])
    if isinstance(method, BitFit) and family == "t5":  # T5 has no biases
        return BitFit(("q", "wo"))
    has_targets = "target_modules" in {setting.name for setting in fields(method)}
    return replace(method, target_modules=TARGETS[family]) if has_targets else method


CASES: dict[str, ParityCase] = {
    name: ParityCase(
        {family: for_family(technique.method, family) for family in technique.families},
        technique.equals,
        tuple(family for family in technique.families if technique.equals and family not in technique.unequal),
        technique.inputs(ROWS),
    )
    for name, technique in TECHNIQUES.items()
}
