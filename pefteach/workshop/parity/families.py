"""A tiny model of every family, at sizes where faults show: in != out, key heads != query heads, biases not zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from pefteach.model.decoder import Config, Decoder

VOCABULARY = 96
ROWS = 3  # of a batch
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4,
}  # fmt: skip
LLAMA: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def _ours() -> nn.Module:
    return Decoder(Config(**LLAMA, head_dim=16))


def _llama() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True))


def _qwen2() -> nn.Module:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**LLAMA))


def _gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=64, n_inner=128,
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        )
    )  # fmt: skip


def _bert() -> nn.Module:
    return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, **NO_DROPOUT, max_position_embeddings=64))


def _t5() -> nn.Module:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=VOCABULARY, d_model=64, d_kv=8, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0.0,
            decoder_start_token_id=0,
        )
    )  # fmt: skip


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "ours": _ours, "llama": _llama, "qwen2": _qwen2, "gpt2": _gpt2, "bert": _bert, "t5": _t5,
}  # fmt: skip


def make(family: str, seed: int = 0) -> nn.Module:
    """A model of the family in evaluation mode. Every parameter is moved off its start value, biases and norms too."""
    torch.manual_seed(seed)
    model = FAMILIES[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def make_batch(family: str, rows: int = ROWS, length: int = 9, seed: int = 1) -> dict[str, Tensor]:
    """Token ids (B, T); the second row is padded on the right with three ids that no method may read."""
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    return batch | {"decoder_input_ids": ids.flip(1)} if family == "t5" else batch
