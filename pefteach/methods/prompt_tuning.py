"""Prompt tuning: trains a few vectors in front of the embedded text, and nothing else.

Lester, Al-Rfou & Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", section 2:

    logits = model([P ; E(X)]),    P: (n, D) trained,  E(X): (T, D) the embeddings of the text

``soft_prompt.py`` puts P there; this file chooses the values that P starts with (section 2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from pefteach.methods.core.soft_prompt import PromptAdapter, PromptPart, SoftPrompt

COMMON_TOKENS = 5000  # the paper samples from the 5,000 commonest tokens; most vocabularies begin with them


@dataclass(frozen=True)
class PromptTuning(SoftPrompt):
    """Settings of prompt tuning.

    Args:
        num_virtual_tokens: n, how many vectors.
        init: their start: "random", uniform between -0.5 and 0.5; "vocabulary", the embeddings of random
            common tokens; "text", those of a text, repeated or cut to n tokens.
        text: for "text": token ids, or a string with its tokenizer.
        tokenizer: one of ``tokenizers`` or ``transformers``, if ``text`` is a string.

    Raises:
        ValueError: when attached with settings that make no prompt, or to a model without a place for one.
    """

    init: str = "vocabulary"
    text: str | Sequence[int] = ()
    tokenizer: Any = field(default=None, repr=False, compare=False)

    formula: ClassVar[str] = "n D"

    def trained_parameters(self, model: Any) -> int:
        return self.num_virtual_tokens * model.get_input_embeddings().weight.shape[1]

    def build(self, model: Any, name: str) -> PromptAdapter:
        return PromptAdapter(self, model, name, {"": PromptPart(model, self.start(self.vocabulary(model)))})

    def start(self, vocabulary: Tensor) -> Tensor:
        """The first P (n, D), from the token embeddings (V, D)."""
        V, D = vocabulary.shape
        if self.init == "random":
            return torch.rand(self.num_virtual_tokens, D) - 0.5
        if self.init == "vocabulary":
            return vocabulary[torch.randint(min(V, COMMON_TOKENS), (self.num_virtual_tokens,))]
        if self.init != "text":
            raise ValueError(f"init must be 'random', 'vocabulary' or 'text', not {self.init!r}")
        ids: Any = self.text
        if isinstance(ids, str):
            if self.tokenizer is None:
                raise ValueError("a text needs its tokenizer: pass tokenizer=, or token ids as text=")
            ids = self.tokenizer.encode(ids, add_special_tokens=False)
            ids = getattr(ids, "ids", ids)  # tokenizers gives an Encoding, transformers a list
        if not len(ids) or not all(0 <= i < V for i in ids):
            raise ValueError(f"text must be at least one token, with ids from 0 to {V - 1}, not {list(ids)}")
        return vocabulary[[ids[i % len(ids)] for i in range(self.num_virtual_tokens)]]

    # The settings in peft's files.
    peft_type: ClassVar[str] = "PROMPT_TUNING"

    def to_peft(self) -> dict:
        # The file has the values, so their start does not matter; with "TEXT", peft would load the tokenizer.
        return {
            "peft_type": self.peft_type,
            "num_virtual_tokens": self.num_virtual_tokens,
            "prompt_tuning_init": "RANDOM",
        }

    @classmethod
    def from_peft(cls, config: dict) -> PromptTuning:
        return cls(config["num_virtual_tokens"])
