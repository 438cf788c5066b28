"""The methods that are compared, with settings at which faults show, and the families each is compared on."""

from __future__ import annotations

from dataclasses import dataclass

from pefteach.methods import BitFit, FullFineTuning, LastLayers, LoRA, Method, Norms

# Linear layers of which some are not square, so that a transposed matrix cannot pass.
TARGETS: dict[str, list[str]] = {
    "ours": ["q_proj", "v_proj", "down_proj"],
    "llama": ["q_proj", "v_proj", "down_proj"],
    "qwen2": ["k_proj", "o_proj", "up_proj"],
    "gpt2": ["c_attn", "mlp.c_proj"],
    "bert": ["query", "value", "intermediate.dense"],
    "t5": ["q", "v", "wo"],
}


@dataclass(frozen=True)
class Case:
    """One method, with its settings for every family that it is tested on.

    Attributes:
        methods: by family.
        reference: the library it is compared with: "peft", "adapters", or None where none has the method.
        without: families that the reference cannot do, or does wrong.
    """

    methods: dict[str, Method]
    reference: str | None = "peft"
    without: tuple[str, ...] = ("ours",)

    @property
    def compared_on(self) -> list[str]:
        return [] if self.reference is None else [family for family in self.methods if family not in self.without]


EVERYWHERE = tuple(TARGETS)

CASES: dict[str, Case] = {
    "full fine-tuning": Case({family: FullFineTuning() for family in EVERYWHERE}, reference=None),
    "last block": Case({family: LastLayers(1) for family in EVERYWHERE if family != "t5"}, reference=None),
    "norms": Case({family: Norms() for family in EVERYWHERE}, reference=None),
    "BitFit": Case({family: BitFit(("q", "wo") if family == "t5" else ()) for family in EVERYWHERE}, reference=None),
    "LoRA": Case({family: LoRA(3, 7.0, targets) for family, targets in TARGETS.items()}),
    "rsLoRA": Case({family: LoRA(3, 7.0, targets, rslora=True) for family, targets in TARGETS.items()}),
}
