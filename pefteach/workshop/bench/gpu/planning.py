"""How far a rehearsal is from a GPU: the peak that it predicts, and the peak of the step itself."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import partial

import torch

from pefteach.memory.count import measure_step
from pefteach.memory.rehearse import Preparation, make_ready, rehearse_step
from pefteach.methods import LoRA
from pefteach.methods.qlora import prepare_qlora
from pefteach.model.decoder import Config
from pefteach.quant import quantise
from pefteach.training.optimizers import optimizer_for
from pefteach.workshop.bench.gpu.device import Gpu
from pefteach.workshop.bench.gpu.models import hugging_face, random_llama, warm_up
from pefteach.workshop.bench.gpu.training import ALPHA, RANK
from pefteach.workshop.rows import Row, row

LIMIT = 5.0  # percent


@dataclass(frozen=True)
class Recipe:
    """A way to train. The weights are in 4 bits before ``method`` meets the model, if ``precision`` is "nf4"."""

    method: Preparation
    precision: str
    optimizer: str


RECIPES = {
    "LoRA": Recipe(LoRA(RANK, ALPHA, "all-linear"), "bf16", "adamw"),
    "QLoRA": Recipe(partial(prepare_qlora, rank=RANK, alpha=ALPHA, checkpointing=True), "nf4", "paged-adamw-32bit"),
}


def run(gpu: Gpu, name: str, config: Config, batch: int, length: int = 1024) -> list[Row]:
    """For LoRA and QLoRA, by how many percent the predicted peak misses the measured one."""
    rows = []
    for method, recipe in RECIPES.items():
        measured, predicted = real(gpu, config, recipe, batch, length), predict(gpu, config, recipe, batch, length)
        what = f"{name}, {batch} x {length} tokens, {method}: peak {measured / 2**30:.2f} GiB"
        error = 100 * abs(predicted / measured - 1)
        rows.append(row(f"{what}, predicted {predicted / 2**30:.2f}", "%", error, LIMIT))
    return rows


def predict(gpu: Gpu, config: Config, recipe: Recipe, batch: int, length: int) -> int:
    """Bytes. What is paged does not lie in torch's memory."""
    step = rehearse_step(
        hugging_face(config), recipe.method, batch, length, precision=recipe.precision, optimizer=recipe.optimizer
    )
    assert step.peak is not None  # a rehearsal always has one
    return step.peak - (step.paged if gpu.device.type == "cuda" else 0)


def real(gpu: Gpu, config: Config, recipe: Recipe, batch: int, length: int) -> int:
    """Bytes: the most that lay in memory while a step was taken, the model included."""
    warm_up(gpu.device)
    gc.collect()
    before = gpu.held()
    model = random_llama(config, gpu.device)
    if recipe.precision == "nf4":
        quantise(model)
    make_ready(model, recipe.method)
    ids = torch.zeros(batch, length, dtype=torch.long, device=gpu.device)
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    gpu.forget()
    measure_step(model, rows, optimizer_for(recipe.optimizer, gpu.device)[0])
    gpu.wait()
    return gpu.highest() - before
