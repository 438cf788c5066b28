"""Llamas of any shape with random weights, which need no download, and are as fast and as large as trained ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pefteach.model.decoder import Config
from pefteach.workshop.machine import need


def random_llama(config: Config, device: torch.device) -> nn.Module:
    """A Llama of this shape with random weights, made on the device in bfloat16, and always the same."""
    transformers = need("transformers")
    torch.manual_seed(0)
    with device:
        model = transformers.AutoModelForCausalLM.from_config(hugging_face(config), dtype=torch.bfloat16)
    return model.train()


def hugging_face(config: Config, positions: int = 2048) -> Any:
    """The config of the same shape in transformers."""
    facts = config.to_dict() | {"max_position_embeddings": positions, "use_cache": False}
    return need("transformers").LlamaConfig.from_dict(facts)


def warm_up(device: torch.device) -> None:
    """Let cuBLAS take its workspace, forward and backward, or the first variant would be charged for it."""
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(16, 16, device=device, dtype=dtype, requires_grad=True)
        (x @ x).sum().backward()
