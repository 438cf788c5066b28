"""QLoRA as the paper trains it (Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", section 3).

    y = x · dequantise(W)ᵀ + s · B A x    W: (out, in) in NF4 with double quantisation, frozen;  A, B: LoRA's, trained

Four choices around that equation, each from the paper or its code:

* LoRA on **every** linear layer of the blocks: on query and value alone it stayed behind 16-bit tuning (figure 2);
* the **norms** in float32: they are small, and they steer everything after them;
* **gradient checkpointing**: once the base is small, activations fill the memory, so blocks are computed twice;
* AdamW with **paged** states, which leave the GPU when a long batch needs the room (``training/optimizers.py``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pefteach.methods.core.adapter import Adapter
from pefteach.methods.core.attach import attach
from pefteach.methods.lora import LoRA
from pefteach.model.modules import base_modules
from pefteach.model.recompute import recompute_blocks
from pefteach.quant.load import four_bit_weight, quantise


def prepare_qlora(
    model: nn.Module,
    rank: int = 64,
    alpha: float = 16.0,
    dropout: float = 0.0,
    *,
    lora_dtype: torch.dtype = torch.float32,
    checkpointing: bool = False,
    name: str = "default",
) -> Adapter:
    """Prepare a model for QLoRA, in place: 4-bit layers, LoRA on each of them, norms in float32.

    Args:
        model: in 4 bits (:func:`pefteach.quant.load_in_4bit`); any other is quantised here, to NF4 with double
            quantisation.
        rank, alpha, dropout: LoRA's.
        lora_dtype: the precision of A and B: float32, or bfloat16 as in the authors' code.
        checkpointing: keep only the inputs of the blocks, and compute the blocks again on the backward pass.

    Returns:
        The LoRA adapter. Its file is like any LoRA's: it does not mention the 4 bits.

    Raises:
        ValueError: the model cannot be quantised or cannot recompute its blocks, or LoRA refuses the settings.
    """
    if not any(four_bit_weight(layer) is not None for _, layer in base_modules(model)):
        quantise(model)
    adapter = attach(model, LoRA(rank, alpha, "all-linear", dropout), name)
    for parameter in adapter.trained_tensors().values():
        parameter.data = parameter.data.to(lora_dtype)
    if checkpointing:
        recompute_blocks(model)
    norms_in_float32(model)
    return adapter


def norms_in_float32(model: nn.Module) -> None:
    """Make every norm compute in float32, with a float32 scale, and cast its result to the precision of its input."""
    for _, module in base_modules(model):
        if "norm" in type(module).__name__.lower() and any(p.dtype != torch.float32 for p in module.parameters()):
            stream = next(module.parameters()).dtype
            module.float()
            module.register_forward_pre_hook(_to_float32)
            module.register_forward_hook(_CastBack(stream))


def _to_float32(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].float(), *inputs[1:])


class _CastBack:
    """A hook that casts a module's output. An object and not a closure, so that a model can be copied with it."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.to(self.dtype)
