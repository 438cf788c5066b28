"""Prompt tuning: a few trained vectors in front of the embedded text, and nothing else is trained.

Lester, Al-Rfou & Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", section 2:

    logits = model([P ; E(X)]),    P: (n, D) trained,  E(X): (T, D) the embeddings of the text

The caller notices none of it: the mask, the positions and the labels grow by n on the way in, and the n rows of logits
that belong to P are cut off on the way out. ``p_tuning.py`` and ``multitask_prompt.py`` build on this file: they differ
in where the vectors come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pefteach.methods.method import Method, Part, PartsAdapter
from pefteach.methods.positions import argument_names, check_length, extend
from pefteach.methods.targets import output_layer

COMMON = 5000  # the paper samples from the 5,000 commonest tokens; most vocabularies begin with them


@dataclass(frozen=True)
class SoftPrompt(Method):
    """What all methods share that put trained vectors in front of the text: their number, and where they fit.

    Args:
        tokens: n, how many vectors.
    """

    tokens: int = 20

    starts_as_base: ClassVar[bool] = False

    def extra_tokens(self) -> int:
        return self.tokens

    def make_part(self, model: Any, vocabulary: Tensor) -> PromptPart:
        """What a method adds: the part with its vectors, given the model's token embeddings (V, D)."""
        raise NotImplementedError

    def build(self, model: Any, name: str) -> PromptAdapter:
        if getattr(model.config, "is_encoder_decoder", False):
            raise ValueError(
                f"{type(model).__name__} is an encoder and a decoder, where a prompt has no one place: use a "
                "decoder or an encoder alone, or a method that acts on layers, such as LoRA"
            )
        if output_layer(model) is None or not hasattr(model, "get_input_embeddings"):
            raise ValueError(
                "a soft prompt needs the token embeddings and an output layer with a score for every token; "
                f"{type(model).__name__} lacks them: use a model such as ...ForCausalLM or ...ForMaskedLM"
            )
        limit = getattr(model.config, "max_position_embeddings", None) or float("inf")
        if not 1 <= self.tokens < limit:
            raise ValueError(f"tokens must be at least 1 and below the model's {limit} positions, not {self.tokens}")
        vocabulary = model.get_input_embeddings().weight.detach()
        return PromptAdapter(self, model, name, {"": self.make_part(model, vocabulary)})


@dataclass(frozen=True)
class PromptTuning(SoftPrompt):
    """Settings of prompt tuning.

    Args:
        tokens: n, how many vectors.
        init: what they start as: "random", uniform between -0.5 and 0.5; "vocabulary", the embeddings of random
            common tokens; "text", those of a text, repeated or cut to n tokens.
        text: for "text": token ids, or a string with its tokenizer.
        tokenizer: of ``tokenizers`` or ``transformers``.

    Raises:
        ValueError: when attached with settings that make no prompt, or to a model without a place for one.
    """

    init: str = "vocabulary"
    text: str | Sequence[int] = ()
    tokenizer: Any = field(default=None, repr=False, compare=False)

    peft_type: ClassVar[str] = "PROMPT_TUNING"
    formula: ClassVar[str] = "n D"

    def trained_parameters(self, model: Any) -> int:
        return self.tokens * model.get_input_embeddings().weight.shape[1]

    def make_part(self, model: Any, vocabulary: Tensor) -> PromptPart:
        return PromptPart(model, self.start(vocabulary))

    def start(self, vocabulary: Tensor) -> Tensor:
        """The first P (n, D), from the token embeddings (V, D)."""
        V, D = vocabulary.shape
        if self.init == "random":
            return torch.rand(self.tokens, D) - 0.5
        if self.init == "vocabulary":
            return vocabulary[torch.randint(min(V, COMMON), (self.tokens,))]
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
        return vocabulary[[ids[i % len(ids)] for i in range(self.tokens)]]

    def to_peft(self) -> dict:
        # The file has the values, so it does not matter how they began; told "TEXT", peft would load the tokenizer.
        return {"peft_type": self.peft_type, "num_virtual_tokens": self.tokens, "prompt_tuning_init": "RANDOM"}

    @classmethod
    def from_peft(cls, config: dict) -> PromptTuning:
        return cls(config["num_virtual_tokens"])


class PromptPart(Part):
    """Wraps the call of the whole model and puts its vectors in front of the text. They stay in float32."""

    own_inputs: ClassVar[tuple[str, ...]] = ()  # keyword arguments that the part takes for itself, not for the model

    def __init__(self, model: Any, start: Tensor):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(start.float(), freeze=False)  # P: (n, D), under peft's name
        self.embed = model.get_input_embeddings  # the function: its module would count among the part's own
        self.config, self.names = model.config, argument_names(model)

    def vectors(self) -> Tensor:
        """P: (n, D), or (B, n, D) if every row has its own. Keyword arguments: ``own_inputs``."""
        return self.embedding.weight

    def forward(self, call: Callable, *args: Any, **kwargs: Any) -> Any:
        inputs = dict(zip(self.names, args)) | kwargs
        own = {key: inputs.pop(key) for key in self.own_inputs if key in inputs}
        ids, text = inputs.pop("input_ids", None), inputs.pop("inputs_embeds", None)
        text = self.embed()(ids) if text is None else text  # (B, T, D)
        B, T, _ = text.shape
        n, cache = self.embedding.num_embeddings, inputs.get("past_key_values")
        past = cache.get_seq_length() if cache is not None else 0  # 0, or n and the text so far
        check_length(self.config, n, max(0, past - n) + T)
        inputs = extend(n, T, inputs, self.names)  # at every call: the mask has room for P, the text starts at n
        if past == 0:  # at the first call only, as later ones find P in the cache: P itself, and what goes with it
            prompt = self.vectors(**own).to(text.dtype)
            text = torch.cat([prompt.expand(B, -1, -1), text], 1)  # (B, n + T, D)
            front = {"position_ids": range(n), "labels": [-100] * n, "token_type_ids": [0] * n}  # -100: no loss
            for key, values in front.items():
                if inputs.get(key) is not None:
                    rows = inputs[key]  # (B, T)
                    inputs[key] = torch.cat([rows.new_tensor(values).expand(len(rows), -1), rows], 1)
        if "logits_to_keep" in self.names and inputs.get("labels") is None:  # the loss needs logits for every label
            inputs["logits_to_keep"] = inputs.get("logits_to_keep") or T  # spares P its logits; the default 0 means all
        output = call(inputs_embeds=text, **inputs)
        output.logits = output.logits[:, -T:]
        return output


class PromptAdapter(PartsAdapter):
    """The adapter of one soft prompt. While training its tensors have peft's names; a file holds P alone."""

    @property
    def part(self) -> Any:
        return self.parts[""]  # the empty path is the model itself

    def tensors(self) -> dict[str, nn.Parameter]:
        return {f"prompt_encoder.{key}": parameter for key, parameter in self.part.named_parameters()}

    def stored(self) -> Mapping[str, Tensor]:
        return {"prompt_embeddings": self.part.embedding.weight}
