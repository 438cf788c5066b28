"""On a CUDA device: QLoRA steps and 4-bit kernels against bitsandbytes, and the memory planner against the memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

import torch

from pefteach.memory.llamas import MODELS
from pefteach.workshop.bench.gpu import kernels, planning, report, training
from pefteach.workshop.bench.gpu.device import Gpu
from pefteach.workshop.rows import Row

ROWS = {"TinyLlama-1.1B": 8, "Llama-2-7B": 4}  # per batch, so that all variants fit into 40 GB together


def run(write: bool = False) -> list[Row]:
    """All rows.

    Args:
        write: also put them into ``docs/gpu.md``.

    Raises:
        ValueError: no CUDA device, or one with too little memory.
    """
    gpu = Gpu()
    parts: list[Callable[[], list[Row]]] = [partial(kernels.run, gpu)]
    for name, batch in ROWS.items():
        parts.append(partial(training.run, gpu, name, MODELS[name], batch))
        parts.append(partial(planning.run, gpu, name, MODELS[name], batch=1))
    rows: list[Row] = []
    for part in parts:
        try:
            rows += part()
        except torch.cuda.OutOfMemoryError:
            raise ValueError("`pefteach bench gpu` needs a GPU with 40 GB of free memory, more than there is") from None
        gc.collect()  # a model and its hooks hold each other
        torch.cuda.empty_cache()
    if write:
        report.DOC.write_text(report.document(rows), encoding="utf-8")
    return rows
