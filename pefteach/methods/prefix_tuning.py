"""Prefix tuning: trained keys and values in every layer, like those of n more tokens before the text.

Li & Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", section 4. In every layer

    head = softmax(q [P_k; K]ᵀ / √d) [P_v; V]  =  (1 - λ) Attn(q, K, V) + λ Attn(q, P_k, P_v)

where P_k, P_v (n, d) are trained and λ is the share of the attention that falls on the prefix (He et al. 2022,
"Towards a Unified View of Parameter-Efficient Transfer Learning", equation 7). Zero keys and values are therefore
not a neutral start: their λ is not 0, and they pull every head towards 0.

All layers' keys and values are one matrix P (n, 2 L G d), with G key/value heads: per prefix token the key of layer
0, the value of layer 0, the key of layer 1 … Training P itself can be unstable, so the paper trains a smaller matrix
P' and an MLP, P = MLP(P'), and drops the MLP after training: :meth:`PrefixAdapter.collapse`. A file always holds P.

P-tuning v2 (Liu et al. 2022, also "deep prompt tuning") is this method without the MLP: ``PrefixTuning(n)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pefteach.methods.core.adapter import Method
from pefteach.methods.core.caches import cache_type, find_cached
from pefteach.methods.core.positions import argument_names, check_length, extend, text_shape
from pefteach.methods.core.soft_prompt import PromptAdapter
from pefteach.methods.core.targets import attention_sizes
from pefteach.methods.core.wrapping import Part
from pefteach.model.modules import base_module

CHECKPOINTING = "the model drops its cache, and the prefix with it, under gradient checkpointing: switch that off"


class PrefixPart(Part):
    """Wraps the call of the whole model, and puts the trained keys and values first into the cache."""

    def __init__(self, model: Any, method: PrefixTuning):
        super().__init__()
        layers, _, self.key_heads, self.d = attention_sizes(model)
        width = self.key_heads * self.d
        out, h = 2 * layers * width, method.encoder_hidden_size
        self.embedding = nn.Embedding(method.num_virtual_tokens, out if h is None else width)  # P or P', N(0, 1)
        self.transform = None if h is None else nn.Sequential(nn.Linear(width, h), nn.Tanh(), nn.Linear(h, out))
        self.config, self.names, self.base_embedding = model.config, argument_names(model), model.get_input_embeddings
        self.new_cache = cache_type(model)

    def forward(self, call: Callable, *args: Any, **kwargs: Any) -> Any:
        inputs = dict(zip(self.names, args)) | kwargs
        rows, new = text_shape(inputs)
        n, cache = self.embedding.num_embeddings, inputs.get("past_key_values")
        cache = self.new_cache() if cache is None else cache
        check_length(self.config, n, max(0, cache.get_seq_length() - n) + new)
        if cache.get_seq_length() == 0:  # the first call; later ones find the prefix in the cache
            for layer, (key, value) in enumerate(self.pairs(rows)):
                cache.update(key, value, layer)
        past, inputs["past_key_values"] = cache.get_seq_length(), cache
        output = call(**extend(n, new, inputs, self.names))
        if cache.get_seq_length() == past:
            raise ValueError(CHECKPOINTING)
        if inputs.get("use_cache") is False and hasattr(output, "past_key_values"):
            output.past_key_values = None  # or transformers' generate would use it against the caller's wish
        return output

    def prefix(self) -> Tensor:
        """P, (n, 2 L G d)."""
        return self.embedding.weight if self.transform is None else self.transform(self.embedding.weight)

    def pairs(self, rows: int) -> list[tuple[Tensor, Tensor]]:
        """Every layer's key and value (B, G, n, d), the same for all rows. RoPE does not turn these keys."""
        prefix = self.prefix().to(self.base_embedding().weight.dtype)
        both = prefix.view(len(prefix), -1, self.key_heads, self.d).permute(1, 2, 0, 3)  # (2L, G, n, d)
        # First unbind, then expand: the backward pass then sums over the rows in each layer's own tensor.
        each = [one.expand(rows, -1, -1, -1) for one in both.unbind()]  # 2L of (B, G, n, d), without a copy
        return list(zip(each[0::2], each[1::2]))


@dataclass(frozen=True)
class PrefixTuning(Method):
    """Settings of prefix tuning.

    Args:
        num_virtual_tokens: n, the length of the prefix, at least 1.
        encoder_hidden_size: hidden size of the MLP; None trains the keys and values directly.

    Raises:
        ValueError: when attached with a size below 1, under gradient checkpointing, or to a model that takes no
            cache or has two stacks (T5).
    """

    num_virtual_tokens: int = 10
    encoder_hidden_size: int | None = None

    formula: ClassVar[str] = "n · 2 L G d; with an MLP of size h, while training: n G d + (G d + 1) h + (h + 1) 2 L G d"
    starts_as_base: ClassVar[bool] = False

    def trained_parameters(self, model: nn.Module) -> int:
        layers, _, key_heads, d = attention_sizes(model)
        n, h, width = self.num_virtual_tokens, self.encoder_hidden_size, key_heads * d
        out = 2 * layers * width
        return n * out if h is None else n * width + (width + 1) * h + (h + 1) * out

    def extra_tokens(self) -> int:
        return self.num_virtual_tokens

    def build(self, model: nn.Module, name: str) -> PrefixAdapter:
        n, h = self.num_virtual_tokens, self.encoder_hidden_size
        if n < 1 or (h is not None and h < 1):
            raise ValueError(f"num_virtual_tokens and encoder_hidden_size must be at least 1, not {n} and {h}")
        if getattr(model, "is_gradient_checkpointing", False):
            raise ValueError(CHECKPOINTING)
        path = find_cached(model)
        return PrefixAdapter(self, model, name, {path: PrefixPart(base_module(model, path), self)})

    # The settings in peft's files.
    peft_type: ClassVar[str] = "PREFIX_TUNING"

    def to_peft(self) -> dict:
        return {
            "peft_type": self.peft_type,
            "num_virtual_tokens": self.num_virtual_tokens,
            "prefix_projection": self.encoder_hidden_size is not None,
            "encoder_hidden_size": self.encoder_hidden_size,
        }

    @classmethod
    def from_peft(cls, config: dict) -> PrefixTuning:
        return cls(config["num_virtual_tokens"])  # no file holds the MLP


class PrefixAdapter(PromptAdapter):
    """Trains P' and the MLP, or P; stores P."""

    @torch.no_grad()
    def file_tensors(self) -> Mapping[str, Tensor]:
        return {"prompt_embeddings": self.part.prefix()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_tensors(tensors)
        if self.part.transform is not None:  # P' cannot be computed from P
            self.collapse()
            super().load_tensors(tensors)

    def to_peft(self) -> dict:
        body = {} if "" in self.parts else {"task_type": "FEATURE_EXTRACTION"}  # peft opens it on model.bert
        return super().to_peft() | {"prefix_projection": self.part.transform is not None} | body

    @torch.no_grad()
    def collapse(self) -> None:
        """Replace P' and the MLP by P. The model computes the same; training on needs a new optimiser."""
        trains = self.part.embedding.weight.requires_grad
        self.part.embedding = nn.Embedding.from_pretrained(self.part.prefix().clone(), freeze=not trains)
        self.part.transform = None
