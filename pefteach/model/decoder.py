"""A Llama-layout decoder, small enough to read in one sitting.

The modules carry the names of Hugging Face's ``LlamaForCausalLM``, so either opens the other's
checkpoints, and a method that finds its targets here finds them there. Shapes in the comments:
B rows, T tokens now, S tokens seen so far (cache included), D hidden size, H heads, G key/value heads,
d size of one head, V vocabulary.

Sources: Vaswani et al. 2017 (attention), Zhang & Sennrich 2019 (RMSNorm), Su et al. 2021 (RoPE),
Shazeer 2020 (SwiGLU), Ainslie et al. 2023 (grouped-query attention), Touvron et al. 2023 (Llama).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Config:
    """The shape of a decoder, in the words of Hugging Face's ``config.json``."""

    vocab_size: int = 2048
    hidden_size: int = 192
    intermediate_size: int = 576
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 32
    max_position_embeddings: int = 512
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    attention_bias: bool = True
    mlp_bias: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    @classmethod
    def from_dict(cls, raw: dict) -> Config:
        """Read a Hugging Face Llama configuration.

        Raises:
            ValueError: another architecture, or a variant this decoder does not compute.
        """
        rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if raw.get("model_type", "llama") != "llama":
            raise ValueError(f"this decoder opens Llama checkpoints, not model_type {raw['model_type']!r}")
        if kind != "default":
            raise ValueError(f"RoPE scaling {kind!r} is not supported: open this checkpoint with transformers instead")
        if raw.get("hidden_act", "silu") != "silu":
            raise ValueError(f"activation {raw['hidden_act']!r} is not supported: a Llama uses 'silu'")
        known = {f.name: raw[f.name] for f in fields(cls) if raw.get(f.name) is not None}
        # What config.json may leave out means Llama's own default, not ours.
        known = {"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False, "rms_norm_eps": 1e-6} | known
        known.setdefault("num_key_value_heads", known["num_attention_heads"])
        known.setdefault("head_dim", known["hidden_size"] // known["num_attention_heads"])
        known.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
        return cls(**known)

    def to_dict(self) -> dict:
        """The same configuration as Hugging Face writes it."""
        return asdict(self) | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "torch_dtype": "float32",
        }


@dataclass
class Output:
    """``logits`` (B, T, V); on request also the cache, and the attention weights (B, H, T, S) of every layer."""

    logits: Tensor
    past_key_values: KVCache | None = None
    attentions: list[Tensor] | None = None


class KVCache:
    """The keys and values of the tokens seen so far: one pair (B, G, S, d) per layer."""

    def __init__(self, pairs: list[tuple[Tensor, Tensor]] | None = None):
        self.pairs = list(pairs or [])

    def get_seq_length(self) -> int:
        return self.pairs[0][0].shape[2] if self.pairs else 0

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Append the new keys and values (B, G, T, d) of a layer and return all of them (B, G, S, d)."""
        if layer == len(self.pairs):
            self.pairs.append((key, value))
        else:
            old_key, old_value = self.pairs[layer]
            self.pairs[layer] = (torch.cat([old_key, key], 2), torch.cat([old_value, value], 2))
        return self.pairs[layer]


class RMSNorm(nn.Module):
    """Divide by the root mean square over D, then scale each channel."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D)
        x32 = x.float()  # the square of a half-precision number overflows easily
        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


class RotaryEmbedding(nn.Module):
    """The angle of every position and frequency: pairs of channels turn by position / theta^(2i/d)."""

    def __init__(self, config: Config):
        super().__init__()
        # A division, as in transformers: a negative power rounds its last bit differently, which shows in the logits.
        frequency = 1 / config.rope_theta ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim)
        self.register_buffer("inv_freq", frequency, persistent=False)  # (d/2,)

    def forward(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:  # (B, T)
        angle = position_ids[..., None].float() * self.inv_freq.float()  # (B, T, d/2)
        angle = torch.cat([angle, angle], -1)[:, None]  # (B, 1, T, d): the same for every head
        return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels (i, i + d/2) of x (B, H, T, d) by its angle."""
    first, second = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], -1) * sin.to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ / √d) v, where ``mask`` is True at the keys a query may look at.

    The decoder calls torch's fused kernel for the same numbers, except when ``output_attentions`` wants the weights.

    Args:
        q: (B, H, T, d); k, v: (B, H, S, d); mask: boolean, broadcastable to (B, H, T, S).

    Returns:
        The mixed values (B, H, T, d) and the weights (B, H, T, S), whose rows sum to one.
    """
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.float().softmax(-1).to(q.dtype)
    return weights @ v, weights


class Attention(nn.Module):
    """Grouped-query attention: H query heads share G key/value heads."""

    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        d, bias = config.head_dim, config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * d, bias)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * d, bias)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * d, bias)
        self.o_proj = nn.Linear(config.num_attention_heads * d, config.hidden_size, bias)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor, cache: KVCache | None, want_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        B, T, _ = x.shape
        split = lambda y: y.view(B, T, -1, self.config.head_dim).transpose(1, 2)  # (B, heads, T, d)
        q, k, v = split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x))
        q, k = rotate(q, *angles), rotate(k, *angles)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        shared_by = self.config.num_attention_heads // self.config.num_key_value_heads
        k, v = k.repeat_interleave(shared_by, 1), v.repeat_interleave(shared_by, 1)  # (B, H, S, d)
        if want_weights:
            mixed, weights = attention(q, k, v, mask)
        else:
            mixed, weights = F.scaled_dot_product_attention(q, k, v, mask), None
        return self.o_proj(mixed.transpose(1, 2).reshape(B, T, -1)), weights


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: Config):
        super().__init__()
        D, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(D, inner, bias)
        self.up_proj = nn.Linear(D, inner, bias)
        self.down_proj = nn.Linear(inner, D, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One layer. Each half reads the normalised stream and adds its result back to it (pre-norm)."""

    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor, cache: KVCache | None, want_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        mixed, weights = self.self_attn(self.input_layernorm(x), angles, mask, cache, want_weights)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), weights


class Stack(nn.Module):
    """Embedding, blocks, final norm: what Hugging Face calls ``model``."""

    def __init__(self, config: Config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config)


class Decoder(nn.Module):
    """The whole language model."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.model = Stack(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.apply(self._init)

    def _init(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: KVCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
    ) -> Output:
        """Score the next token at every position.

        Args:
            input_ids: token ids (B, T), or ``inputs_embeds`` (B, T, D) in their place.
            attention_mask: (B, S), 1 for real tokens and 0 for padding, cached tokens included.
            position_ids: (B, T); by default they count on from the cache.
            past_key_values: keys and values of earlier tokens; extended in place.

        Raises:
            ValueError: more positions than ``max_position_embeddings``.
        """
        x = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, D)
        if use_cache and past_key_values is None:
            past_key_values = KVCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        S = past + x.shape[1]
        if S > self.config.max_position_embeddings:
            raise ValueError(
                f"{S} tokens are more than the {self.config.max_position_embeddings} positions of this model"
            )
        place = torch.arange(past, S, device=x.device)
        angles = self.model.rotary_emb(place[None] if position_ids is None else position_ids)
        mask = (torch.arange(S, device=x.device) <= place[:, None])[None, None]  # (1, 1, T, S): no look ahead
        if attention_mask is not None:
            mask = mask & attention_mask[:, None, None, :].bool()  # (B, 1, T, S): no look at padding
        attentions = []
        for block in self.model.layers:
            x, weights = block(x, angles, mask, past_key_values, output_attentions)
            attentions.append(weights)
        logits = self.lm_head(self.model.norm(x))
        return Output(logits, past_key_values, attentions if output_attentions else None)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Decoder:
        """Open a folder in the Hugging Face layout: ``config.json`` and one or several safetensors files.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a damaged file, an unsupported variant, or tensors that do not fit.
        """
        folder = Path(folder)
        config = Config.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        index = folder / "model.safetensors.index.json"
        names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
        tensors: dict[str, Tensor] = {}
        for name in sorted(names):
            try:
                tensors |= load_file(folder / name)
            except SafetensorError as error:
                raise ValueError(f"{folder / name} is damaged or not a safetensors file ({error})") from None
        if config.tie_word_embeddings and "model.embed_tokens.weight" in tensors:
            tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
        model = cls(config)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"the tensors in {folder} do not fit its config.json: {error}") from None
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` as Hugging Face does (a tied head is stored once)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        if self.config.tie_word_embeddings:
            del tensors["lm_head.weight"]
        (folder / "config.json").write_text(json.dumps(self.config.to_dict(), indent=2) + "\n", encoding="utf-8")
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
