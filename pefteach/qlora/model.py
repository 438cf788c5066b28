"""The model of a run: opened in 4 bits, checked against the settings, and asked for an answer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from pefteach.model.modes import eval_mode
from pefteach.qlora.instructions import prompt_ids
from pefteach.qlora.packing import leaks
from pefteach.qlora.settings import Settings
from pefteach.quant.load import load_in_4bit, quantise

NEW_TOKENS = 64  # of an answer


def open_model(settings: Settings, device: torch.device, sharded: bool = False) -> tuple[Any, nn.Module]:
    """Open the tokenizer and the model, in 4 bits on the device: by bitsandbytes on a GPU, else by this package.

    FSDP shards this package's codes like any parameter, but leaves bitsandbytes' whole on every GPU. A model that is
    to be sharded waits on the CPU, since it may be too large for one GPU.

    Raises:
        ValueError: no causal language model under this name, or one that cannot be put in 4 bits.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    backend = settings.backend
    if backend == "auto":
        backend = "bitsandbytes" if device.type == "cuda" and not sharded else "pefteach"
    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.model)
        if backend == "bitsandbytes":
            return tokenizer, load_in_4bit(
                settings.model, quant_type=settings.quant_type, compute_dtype=dtype, device_map={"": device}
            )
        model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=dtype)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        missing = not Path(settings.model).exists()
        why = "no such folder, and not on the hub" if missing else str(error).splitlines()[0][:200]
        raise ValueError(f"cannot open the model {settings.model}: {why}") from None
    return tokenizer, quantise(model, backend, quant_type=settings.quant_type, device=None if sharded else device)


def check_model(model: nn.Module, settings: Settings) -> None:
    """Refuse a model that cannot be trained as the settings say.

    Raises:
        ValueError: rows longer than it reads, or packed examples that see each other in it.
    """
    if settings.length > (limit := longest_text(model)):
        raise ValueError(f"{settings.model} reads {limit} tokens at most: lower --length from {settings.length}")
    if settings.packing and leaks(model):
        raise ValueError(f"in {type(model).__name__} packed examples see each other: train it with --no-packing")


def longest_text(model: Any) -> float:
    """How many tokens the model reads at most; infinity if its configuration does not say."""
    return getattr(model.config, "max_position_embeddings", None) or math.inf


@torch.no_grad()
def answer(model: Any, tokenizer: Any, prompt: str) -> str:
    """The model's answer to a prompt, always taking the likeliest token: 64 of them, or as many as the model reads."""
    ids = torch.tensor([prompt_ids(tokenizer, prompt)], device=next(model.parameters()).device)
    new_tokens = min(NEW_TOKENS, longest_text(model) - ids.shape[1])
    with eval_mode(model):
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False,
            use_cache=True, pad_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
