"""How much memory a training step will need, for any method on any causal model, before anything is loaded.

It is a dress rehearsal: the step is really taken, by the code that :func:`pefteach.memory.count.measure_step` measures,
but with torch's fake tensors, which have shapes and no numbers. So a model of 70 billion parameters fits, and what its
step would keep can be counted. :func:`pefteach.memory.formula.plan_step` gives the same for some methods on a Llama by
formula, with reasons; a rehearsal needs no formula.

Not counted, because no tensor shows it: what a kernel uses inside itself, the CUDA context (about 0.5 GB), and what a
GPU's allocator loses between tensors. Not counted either: the copy of the trained tensors that a method which trains
them in place keeps to go back to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from pefteach.memory.count import Bytes, measure_step
from pefteach.memory.fake_tensors import StatesOfAdamW, without_numbers
from pefteach.methods import Method, attach
from pefteach.model.decoder import Config, Decoder
from pefteach.model.recompute import recompute_blocks
from pefteach.quant import quantise
from pefteach.training.adamw import AdamW

Preparation = Method | Callable[[nn.Module], object]  # a method to attach, or a function that makes a model ready
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "nf4": torch.bfloat16}  # nf4: of all but the 4 bits
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": AdamW,
    "adamw-8bit": partial(StatesOfAdamW, bits=8),
    "paged-adamw-32bit": partial(StatesOfAdamW, bits=32),
    "paged-adamw-8bit": partial(StatesOfAdamW, bits=8),
}
PAGED_FROM = 100_000  # numbers in a tensor; bitsandbytes does not page the states of a smaller one


def rehearse_step(
    config: Any,
    method: Preparation,
    batch: int = 1,
    length: int = 512,
    *,
    precision: str = "bf16",
    checkpointing: bool = False,
    optimizer: str = "adamw",
    attention_matrix: bool = False,
    counted: int | None = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> Bytes:
    """Bytes of a training step, the peak among them.

    Args:
        config: of the model: this package's ``Config``, or that of a causal model of transformers.
        method: what is attached; or a function that makes a model ready in place, such as
            :func:`pefteach.methods.qlora.prepare_qlora`.
        batch, length: rows, and tokens per row; no row is padded.
        precision: of the base: a key of ``DTYPES``; "nf4" is with double quantisation, and the rest in bf16.
        checkpointing: keep only the inputs of the blocks, and compute the blocks again on the way back.
        optimizer: a key of ``OPTIMIZERS``.
        attention_matrix: the textbook computation, which keeps T x T weights per head, instead of a fused kernel.
        counted: tokens that count towards the loss; all but the first of each row by default.
        inputs: what the batch holds besides, such as ``task_ids`` (B,).

    Raises:
        ValueError: an unknown precision or optimiser, sizes that do not fit, a method that cannot apply, or a model
            whose shapes depend on its numbers (a mixture of experts, say).
    """
    counted = batch * (length - 1) if counted is None else counted
    _check(config, batch, length, counted, precision, optimizer)
    name = type(config).__name__.removesuffix("Config") or "Decoder"
    try:
        with without_numbers(batch * length, counted):
            model = build_model(config, precision, attention_matrix).train()
            make_ready(model, method)
            if checkpointing:
                recompute_blocks(model)
            ids = torch.zeros(batch, length, dtype=torch.long)
            rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros_like(ids)}
            rows |= {key: torch.empty(tensor.shape, dtype=tensor.dtype) for key, tensor in (inputs or {}).items()}
            matrix = {"output_attentions": True} if attention_matrix else {}
            step = measure_step(model, rows, OPTIMIZERS[optimizer], **matrix)
            large = sum(p.numel() for p in model.parameters() if p.requires_grad and p.numel() >= PAGED_FROM)
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
        raise ValueError(
            f"a step of {name} cannot be rehearsed, because its shapes depend on its numbers ({error.func})"
        ) from None
    per_number = {"paged-adamw-32bit": 8, "paged-adamw-8bit": 2}.get(optimizer, 0)
    return replace(step, paged=per_number * large)


def make_ready(model: nn.Module, method: Preparation) -> None:
    """Attach a method, or call a function that makes the model ready."""
    if isinstance(method, Method):
        attach(model, method)
    else:
        method(model)


def build_model(config: Any, precision: str, attention_matrix: bool = False) -> nn.Module:
    """A model of this shape, with arbitrary weights.

    Raises:
        ValueError: transformers has no causal model for this config.
    """
    dtype = DTYPES[precision]
    if isinstance(config, Config):
        model: nn.Module = Decoder(config).to(dtype)
    else:
        from transformers import AutoModelForCausalLM

        kernel = {"attn_implementation": "eager"} if attention_matrix else {}
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, **kernel)
        except ValueError:
            raise ValueError(f"transformers has no causal model for a {type(config).__name__}") from None
    return quantise(model) if precision == "nf4" else model


def _check(config: Any, batch: int, length: int, counted: int, precision: str, optimizer: str) -> None:
    if precision not in DTYPES:
        raise ValueError(f"unknown precision {precision!r}: use one of {', '.join(DTYPES)}")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"no optimiser is called {optimizer!r}: choose one of {', '.join(OPTIMIZERS)}")
    if batch < 1 or length < 2:
        raise ValueError(f"a step needs at least 1 row of 2 tokens, not {batch} of {length}")
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise ValueError(f"rows of {length} tokens are longer than the {limit} positions that this model knows")
    if not 1 <= counted <= batch * (length - 1):
        raise ValueError(f"of {batch} rows of {length} tokens 1 to {batch * (length - 1)} can count, not {counted}")
