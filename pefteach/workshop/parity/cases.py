"""The methods that are compared, with settings at which faults show, and the families each is compared on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pefteach.methods import (
    IA3,
    AdaLoRA,
    BitFit,
    DoRA,
    FullFineTuning,
    HoulsbyAdapters,
    LastLayers,
    LlamaAdapter,
    LoRA,
    Method,
    MultitaskPrompt,
    Norms,
    ParallelAdapters,
    PfeifferAdapters,
    PrefixTuning,
    PromptTuning,
    PTuning,
)
from pefteach.workshop.parity.families import DECODERS

# Linear layers of which some are not square, so that a transposed matrix cannot pass.
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
class Case:
    """One method, with its settings for every family that it is tested on.

    Attributes:
        methods: by family.
        reference: the library it is compared with: "peft", "adapters", or None where none has the method.
        without: families that the reference cannot do, or does wrong.
        inputs: what the batch of three rows holds besides, for both.
    """

    methods: dict[str, Method]
    reference: str | None = "peft"
    without: tuple[str, ...] = ("ours",)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def compared_on(self) -> list[str]:
        return [] if self.reference is None else [family for family in self.methods if family not in self.without]


EVERYWHERE = tuple(TARGETS)
ONE_STACK = tuple(family for family in TARGETS if family != "t5")  # where there is one place for a prompt

CASES: dict[str, Case] = {
    "full fine-tuning": Case({family: FullFineTuning() for family in EVERYWHERE}, reference=None),
    "last block": Case({family: LastLayers(1) for family in EVERYWHERE if family != "t5"}, reference=None),
    "norms": Case({family: Norms() for family in EVERYWHERE}, reference=None),
    "BitFit": Case({family: BitFit(("q", "wo") if family == "t5" else ()) for family in EVERYWHERE}, reference=None),
    "Houlsby": Case({family: HoulsbyAdapters(size=7, scale=1.5) for family in ONE_STACK}, "adapters"),
    "Houlsby, learned scale": Case(
        {family: HoulsbyAdapters(9, activation="gelu_new", scale="learned") for family in ONE_STACK}, "adapters"
    ),
    "Pfeiffer": Case({family: PfeifferAdapters(9) for family in ONE_STACK}, "adapters"),
    "parallel adapters": Case({family: ParallelAdapters(size=7) for family in ONE_STACK}, "adapters"),
    "parallel adapters, learned scale": Case(
        {family: ParallelAdapters(9, scale="learned") for family in ONE_STACK}, "adapters"
    ),
    "IA3": Case({family: IA3(*modules) for family, modules in KEYS_VALUES_FFN.items()}),
    "LoRA": Case({family: LoRA(3, 7.0, targets) for family, targets in TARGETS.items()}),
    "rsLoRA": Case({family: LoRA(3, 7.0, targets, rslora=True) for family, targets in TARGETS.items()}),
    "DoRA": Case({family: DoRA(3, 7.0, targets) for family, targets in TARGETS.items()}),
    "AdaLoRA": Case({family: AdaLoRA(5, 2, 7.0, targets, interval=2) for family, targets in TARGETS.items()}),
    "prompt tuning": Case({family: PromptTuning(5) for family in ONE_STACK}),
    "P-tuning": Case({family: PTuning(5, hidden=24) for family in ONE_STACK}),
    "P-tuning, LSTM": Case({family: PTuning(5, "lstm", 24) for family in ONE_STACK}),
    "multitask prompt": Case(
        {family: MultitaskPrompt(5, tasks=4, rank=2) for family in ONE_STACK},
        inputs={"task_ids": torch.tensor([3, 0, 1])},
    ),
    "prefix tuning": Case({family: PrefixTuning(5) for family in ONE_STACK}),
    "prefix tuning, MLP": Case({family: PrefixTuning(5, mlp_size=24) for family in ONE_STACK}),
    # peft refuses Qwen2, and no library has the official gate: its test computes the paper's equation instead
    "LLaMA-Adapter": Case({family: LlamaAdapter(5, layers=1) for family in DECODERS}, without=("ours", "qwen2")),
    "LLaMA-Adapter, gate per head": Case(
        {family: LlamaAdapter(5, layers=1, gate="head") for family in DECODERS}, reference=None
    ),
}
