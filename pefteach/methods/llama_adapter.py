"""LLaMA-Adapter: a few trained prompts in the top layers, added through a gate that starts at zero.

Zhang et al. 2023, "LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention", section 3.2.
Each of the top layers has prompts P (K, D), which go through that layer's own frozen projections:

    S = q [K_P; K_T]ᵀ / √d,    S^g = [g · softmax(S^K); softmax(S^T)],    output = W_o (S^g [V_P; V_T])

Prompts and text have a softmax each, so at g = 0 the attention to the text is exactly what it was. The second half is
the layer's own attention; this file adds the first. The prompts have no position: RoPE does not turn their keys, and
every token sees them. At the first step g is 0, so the prompts' gradient is exactly 0 and only the gate moves.

There are two gates. The official code has one per head and uses tanh(g); peft has one per layer and uses g itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pefteach.methods.core.adapter import Method
from pefteach.methods.core.parts_adapter import PartsAdapter
from pefteach.methods.core.positions import NumberingPart
from pefteach.methods.core.targets import attention_sizes, find_blocks
from pefteach.methods.core.wrapping import Part
from pefteach.model.decoder import rotate
from pefteach.model.modules import base_module, base_modules

# The projections of an attention that can be adapted: of Llama, Mistral and Qwen2, and of GPT-2.
PROJECTIONS = ({"q_proj", "k_proj", "v_proj", "o_proj"}, {"c_attn", "c_proj"})


class LlamaAdapterPart(Part):
    """The prompts and the gate of one attention module.

    ``composes_as`` stays None, so no other part acts on the module: ``call`` is the module itself, and its projections
    are reached through it, whatever adapters they carry.
    """

    def __init__(self, model: Any, method: LlamaAdapter):
        super().__init__()
        _, heads, _, self.d = attention_sizes(model)
        self.adaption_prompt = nn.Parameter(torch.randn(1, method.adapter_len, model.config.hidden_size))
        self.per_head = method.gate == "head"
        self.adaption_gate = nn.Parameter(torch.zeros(1, heads, 1, 1) if self.per_head else torch.zeros(1))

    def forward(self, call: Any, *args: Any, **kwargs: Any) -> tuple:
        y, *others = call(*args, **kwargs)
        x = args[0] if args else kwargs["hidden_states"]  # (B, T, D)
        angles = args[1] if len(args) > 1 else kwargs.get("position_embeddings")
        mixed = self.gated(self.queries(call, x, angles), *self.keys_and_values(call, x.dtype))
        return y + self.project(call, mixed.transpose(1, 2).flatten(2)), *others

    def queries(self, attention: Any, x: Tensor, angles: Any) -> Tensor:
        """The layer's own queries (B, H, T, d)."""
        if not hasattr(attention, "q_proj"):  # GPT-2: one projection for q, k and v, and no RoPE
            return self.heads(attention.c_attn(x).chunk(3, -1)[0])
        return rotate(self.heads(attention.q_proj(x)), *(a if a.ndim == 4 else a[:, None] for a in angles))

    def keys_and_values(self, attention: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The keys and values of the prompts, (1, G, K, d) each. RoPE does not turn the keys."""
        prompt = self.adaption_prompt.to(dtype)
        if hasattr(attention, "q_proj"):
            return self.heads(attention.k_proj(prompt)), self.heads(attention.v_proj(prompt))
        _, k, v = attention.c_attn(prompt).chunk(3, -1)
        return self.heads(k), self.heads(v)

    def heads(self, x: Tensor) -> Tensor:
        """(B, T, heads d) -> (B, heads, T, d)."""
        return x.unflatten(-1, (-1, self.d)).transpose(1, 2)

    def gated(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """g · softmax(q K_Pᵀ / √d) V_P, (B, H, T, d)."""
        shared_by = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(shared_by, 1), v.repeat_interleave(shared_by, 1)  # (1, H, K, d)
        v = self.gate().to(v.dtype) * v  # scales K rows instead of B T: the same result for less work
        return F.scaled_dot_product_attention(q, k.expand(len(q), -1, -1, -1), v.expand(len(q), -1, -1, -1))

    def gate(self) -> Tensor:
        return self.adaption_gate.tanh() if self.per_head else self.adaption_gate

    def project(self, attention: Any, mixed: Tensor) -> Tensor:
        """The output projection without its bias, which the attention to the text has added already."""
        if not hasattr(attention, "o_proj") and not self.per_head:
            return mixed  # peft leaves GPT-2's projection out; its files are only right without it
        out = attention.o_proj if hasattr(attention, "o_proj") else attention.c_proj
        return out(mixed) if out.bias is None else out(mixed) - out.bias


@dataclass(frozen=True)
class LlamaAdapter(Method):
    """Settings of LLaMA-Adapter.

    Args:
        adapter_len: K, the number of prompts in a layer, at least 1.
        adapter_layers: how many layers have prompts, counted from the top.
        gate: "scalar", one number per layer (peft), or "head", one number per head that goes through tanh (official).

    Raises:
        ValueError: when attached with a setting out of range, or to a model whose attention is built otherwise.
    """

    adapter_len: int = 10
    adapter_layers: int = 2
    gate: str = "scalar"

    formula: ClassVar[str] = "layers · (K D + 1), or layers · (K D + H) with a gate per head"

    def trained_parameters(self, model: Any) -> int:
        heads = attention_sizes(model)[1] if self.gate == "head" else 1
        return self.adapter_layers * (self.adapter_len * model.config.hidden_size + heads)

    def build(self, model: nn.Module, name: str) -> PartsAdapter:
        if self.gate not in ("scalar", "head"):
            raise ValueError(f"gate must be 'scalar' or 'head', not {self.gate!r}")
        if self.adapter_len < 1:
            raise ValueError(f"adapter_len must be at least 1, not {self.adapter_len}")
        paths = find_attentions(model)
        if not 1 <= self.adapter_layers <= len(paths):
            raise ValueError(
                f"adapter_layers must be between 1 and the model's {len(paths)}, not {self.adapter_layers}"
            )
        parts: dict[str, Part] = {path: LlamaAdapterPart(model, self) for path in paths[-self.adapter_layers :]}
        if hasattr(base_module(model, paths[0]), "q_proj"):  # a model with RoPE
            parts[""] = NumberingPart(model)
        return PartsAdapter(self, model, name, parts)

    # The settings in peft's files.
    peft_type: ClassVar[str] = "ADAPTION_PROMPT"

    def to_peft(self) -> dict:
        settings = {"adapter_len": self.adapter_len, "adapter_layers": self.adapter_layers}
        if self.gate == "head":  # peft would misread such a file, so the file names no peft type
            return {"peft_type": None, "method": type(self).__name__, "gate": self.gate, **settings}
        return {"peft_type": self.peft_type, **settings}

    @classmethod
    def from_peft(cls, config: dict) -> LlamaAdapter:
        return cls(config["adapter_len"], config["adapter_layers"], config.get("gate", "scalar"))


def find_attentions(model: nn.Module) -> list[str]:
    """The path of every block's attention module, first to last.

    Raises:
        ValueError: a block has no attention built as in Llama or GPT-2; the message lists the block's modules.
    """
    paths = []
    for block_path, block in find_blocks(model).items():
        inside = dict(base_modules(block))
        # All its weights must be in these projections: a norm of q, say, would have to be applied to our queries too.
        weights = {path: {name for name, child in m.named_children() if any(True for _ in child.parameters())}
                   for path, m in inside.items()}  # fmt: skip
        found = [path for path, names in weights.items() if names in PROJECTIONS]
        if len(found) != 1:
            leaves = ", ".join(path for path, m in inside.items() if m._parameters)
            raise ValueError(
                "LLaMA-Adapter needs one attention module per block that consists of q_proj, k_proj, v_proj and o_proj "
                f"(Llama, Mistral, Qwen2) or c_attn and c_proj (GPT-2), and {block_path} has {leaves}: use LoRA instead"
            )
        paths.append(f"{block_path}.{found[0]}")
    return paths
