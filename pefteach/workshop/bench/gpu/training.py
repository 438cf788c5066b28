"""A QLoRA step of this package against peft with bitsandbytes: speed, and the most memory at any moment.

Both as their users run them, with the same rank, alpha, optimiser, clipping and checkpointing, on a Llama with random
weights. Ours keeps the model in bfloat16, LoRA in ``lora_dtype``, and copies what trains to the CPU at every step. peft
keeps LoRA, and all else that is not in 4 bits, in float32, and computes under autocast to bfloat16.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pefteach.methods import LoRA, attach
from pefteach.methods.qlora import prepare_qlora
from pefteach.model.decoder import Config
from pefteach.model.loss import next_token_loss
from pefteach.quant import quantise
from pefteach.training.optimizers import optimizer_for
from pefteach.workshop.bench.gpu.device import Gpu, timed
from pefteach.workshop.bench.gpu.models import random_llama, warm_up
from pefteach.workshop.bench.timing import median_seconds
from pefteach.workshop.machine import need
from pefteach.workshop.rows import Row, row

RANK, ALPHA, LR, CLIP = 64, 16, 2e-4, 0.3  # the paper's
LIMIT = 1.00
PEER = "peft and bitsandbytes"
OURS = {
    f"{backend}'s layers, LoRA in {dtype}": (backend, getattr(torch, dtype))
    for backend, dtype in itertools.product(("pefteach", "bitsandbytes"), ("float32", "bfloat16"))
}
# How far apart rounding to bfloat16 may take two variants. Logits from other weights are 1.4 apart, and from FP4 0.3.
LOGITS, PROGRESS = 0.05, 0.1
FIRST = 3  # steps, before any is timed


@dataclass
class Variant:
    """A training step, and what is known of it before it is timed.

    Attributes:
        step: takes a step and returns the loss before it.
        logits: of one row at the start, on the CPU.
        trained: how many numbers train.
        losses: of the first steps.
        peak: bytes, the model included.
    """

    step: Callable[[], float]
    logits: Tensor
    trained: int
    losses: list[float]
    peak: int


def run(gpu: Gpu, name: str, config: Config, batch: int, length: int = 1024, rounds: int = 5) -> list[Row]:
    """Seconds per step, tokens per second and peak bytes, all variants taking turns step by step.

    Raises:
        ValueError: variants that do not do the same work.
    """
    ids = torch.randint(config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(0)).to(gpu.device)
    torch.set_float32_matmul_precision("high")  # as `pefteach qlora` does
    variants = make_variants(gpu, config, ids)
    check(variants)
    seconds = median_seconds({key: timed(gpu, variant.step) for key, variant in variants.items()}, rounds, warmup=1)
    rows, speed = [], {key: ids.numel() / taken for key, taken in seconds.items()}
    for key in OURS:
        what = f"{name}, {batch} x {length} tokens, {key}"
        rows += [
            row(f"{what}: step", "s", seconds[key], LIMIT, seconds[PEER]),
            row(f"{what}: speed", "tokens/s", speed[key], None, speed[PEER]),
            row(f"{what}: peak", "GiB", variants[key].peak / 2**30, LIMIT, variants[PEER].peak / 2**30),
        ]
    return rows


def make_variants(gpu: Gpu, config: Config, ids: Tensor) -> dict[str, Variant]:
    """All variants, one after the other, from the same weights and the same LoRA."""
    warm_up(gpu.device)
    some = attach(random_llama(config, gpu.device), LoRA(RANK, ALPHA, "all-linear"))
    start = {key: p.detach().to("cpu", copy=True) for key, p in some.trained_tensors().items()}
    del some
    builders: dict[str, Callable[[], tuple[nn.Module, Callable[[], float]]]] = {
        key: partial(ours, gpu.device, config, ids, start, backend, dtype) for key, (backend, dtype) in OURS.items()
    }
    builders[PEER] = partial(theirs, gpu.device, config, ids, start)
    variants = {}
    for key, build in builders.items():
        gc.collect()
        before = gpu.held()
        model, step = build()
        with torch.no_grad(), autocast(gpu.device, key == PEER):
            logits = model(input_ids=ids[:1]).logits.float().cpu()
        losses = [step() for _ in range(FIRST - 1)]
        gpu.forget()
        losses.append(step())
        gpu.wait()
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        variants[key] = Variant(step, logits, trained, losses, gpu.highest() - before)
    return variants


def ours(
    device: torch.device, config: Config, ids: Tensor, start: Mapping[str, Tensor], backend: str, dtype: torch.dtype
) -> tuple[nn.Module, Callable[[], float]]:
    """Our recipe, with LoRA's start values."""
    model = quantise(random_llama(config, device), backend, compute_dtype=torch.bfloat16)
    adapter = prepare_qlora(model, RANK, ALPHA, lora_dtype=dtype, checkpointing=True)
    adapter.load_tensors(start)
    return model, training_step(model, lambda: next_token_loss(model(input_ids=ids).logits, ids), device, copies=True)


def theirs(
    device: torch.device, config: Config, ids: Tensor, start: Mapping[str, Tensor]
) -> tuple[nn.Module, Callable[[], float]]:
    """peft's recipe on bitsandbytes' layers, as its documentation has it."""
    peft = need("peft")
    bare: Any = quantise(random_llama(config, device), "bitsandbytes", compute_dtype=torch.bfloat16)
    bare.is_loaded_in_4bit = True  # as from_pretrained says it; without it there is no checkpointing
    bare = peft.prepare_model_for_kbit_training(bare, gradient_checkpointing_kwargs={"use_reentrant": False})
    lora = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(bare, lora).train()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.copy_(start[name.replace(".default", "")])

    def loss() -> Tensor:
        with autocast(device):
            return model(input_ids=ids, labels=ids).loss

    return model, training_step(model, loss, device, copies=False)


def training_step(
    model: nn.Module, loss_of: Callable[[], Tensor], device: torch.device, copies: bool
) -> Callable[[], float]:
    """One optimiser step, as a function that returns the loss before it.

    Args:
        copies: keep the last good values of what trains, as :func:`pefteach.training.fit` does.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    make, _ = optimizer_for("paged-adamw-32bit", device)
    optimizer = make(parameters, lr=LR, weight_decay=0.0)
    good = [p.detach().to("cpu", copy=True) for p in parameters] if copies else []

    def step() -> float:
        loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        if copies:
            torch._foreach_copy_(good, [p.detach() for p in parameters])
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def check(variants: Mapping[str, Variant]) -> None:
    """Refuse to time variants that do not do the same work.

    Raises:
        ValueError: another number of trained parameters, other logits at the start, or another way down from there.
    """
    peer = variants[PEER]
    fell = peer.losses[0] - peer.losses[-1]
    for key, variant in variants.items():
        if variant.trained != peer.trained:
            what = f"{variant.trained:,} parameters train, not {peer.trained:,}"
        elif not (apart := float((variant.logits - peer.logits).norm() / peer.logits.norm())) <= LOGITS:
            what = f"the logits start {apart:.0%} apart"
        elif not abs(variant.losses[0] - variant.losses[-1] - fell) <= PROGRESS * abs(fell):
            what = f"the first losses are {variant.losses}, not {peer.losses}"
        else:
            continue
        raise ValueError(f"{key}, against {PEER}: {what}, so there is nothing to compare")


def autocast(device: torch.device, on: bool = True) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=on)
