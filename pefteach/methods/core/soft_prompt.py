"""Soft prompts: trained vectors in front of the embedded text, in the place of words.

    logits = model([P ; E(X)]),    P: (n, D) trained,  E(X): (T, D) the embeddings of the text

The caller does not notice: the mask, the positions and the labels grow by n on the way in, and the n rows of logits
that belong to P are cut off on the way out. The methods differ in how they make P:

    prompt_tuning.py       P itself is trained
    p_tuning.py            a small network computes P
    multitask_prompt.py    all tasks share one prompt, and a low-rank matrix adapts it to each
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pefteach.methods.core.adapter import Method
from pefteach.methods.core.parts_adapter import PartsAdapter
from pefteach.methods.core.positions import argument_names, check_length, extend
from pefteach.methods.core.wrapping import Part
from pefteach.model.modules import output_layer


class PromptPart(Part):
    """Wraps the call of the whole model and puts its vectors in front of the text. They stay in float32."""

    own_inputs: ClassVar[tuple[str, ...]] = ()  # keyword arguments that the part takes for itself, not for the model

    def __init__(self, model: Any, start: Tensor):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(start.float(), freeze=False)  # P: (n, D), under peft's name
        self.embed = model.get_input_embeddings  # the function, as torch would register its module as a submodule
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
        if past == 0:  # only at the first call: later ones find P in the cache
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


@dataclass(frozen=True)
class SoftPrompt(Method):
    """Base class of the three methods.

    Args:
        num_virtual_tokens: n, how many vectors.
    """

    num_virtual_tokens: int = 20

    starts_as_base: ClassVar[bool] = False

    def extra_tokens(self) -> int:
        return self.num_virtual_tokens

    def vocabulary(self, model: Any) -> Tensor:
        """The model's token embeddings (V, D), once it is clear that n vectors fit in front of them.

        Raises:
            ValueError: the model has no place for a prompt, or fewer positions than vectors.
        """
        if getattr(model.config, "is_encoder_decoder", False):
            raise ValueError(
                f"{type(model).__name__} has an encoder and a decoder, so a prompt has no single place: use "
                "a decoder or an encoder alone, or a method that acts on layers, such as LoRA"
            )
        if output_layer(model) is None or not hasattr(model, "get_input_embeddings"):
            raise ValueError(
                "a soft prompt needs the token embeddings and an output layer with a score for every token; "
                f"{type(model).__name__} lacks them: use a model such as ...ForCausalLM or ...ForMaskedLM"
            )
        limit = getattr(model.config, "max_position_embeddings", None) or float("inf")
        if not 1 <= self.num_virtual_tokens < limit:
            raise ValueError(
                f"num_virtual_tokens must be at least 1 and below the model's {limit} positions, not "
                f"{self.num_virtual_tokens}"
            )
        return model.get_input_embeddings().weight.detach()


class PromptAdapter(PartsAdapter):
    """The adapter of one soft prompt or prefix. While training its tensors have peft's names; a file holds P alone."""

    @property
    def part(self) -> Any:
        return next(iter(self.parts.values()))  # the only one

    def trained_tensors(self) -> dict[str, nn.Parameter]:
        return {f"prompt_encoder.{key}": parameter for key, parameter in self.part.named_parameters()}

    def file_tensors(self) -> Mapping[str, Tensor]:
        return {"prompt_embeddings": self.part.embedding.weight}
