"""How long a lesson takes from top to bottom, and its slowest cell, in a fresh kernel."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from pefteach.methods import LoRA, attach
from pefteach.model.base import load_base
from pefteach.paths import COURSE
from pefteach.training import fit
from pefteach.workshop.machine import need
from pefteach.workshop.rows import Row, row

LESSON, CELL, TRAINING = 60.0, 20.0, 15.0  # seconds


def run() -> list[Row]:
    """Seconds per lesson and of its slowest cell, and of 100 LoRA steps on the base.

    Raises:
        FileNotFoundError: no lessons, or no base.
        ValueError: a cell of a lesson fails.
    """
    files = sorted(COURSE.glob("[0-9][0-9]_*.ipynb"))
    if not files:
        raise FileNotFoundError(f"no lessons in {COURSE}: clone the whole repository, or run `pefteach build`")
    rows = [row("100 LoRA steps on the base, batch 16 x 64", "s", hundred_steps(), TRAINING)]
    for file in files:
        whole, cells = run_notebook(file)
        slowest = max(cells)
        rows.append(row(file.stem, "s", whole, LESSON))
        rows.append(row(f"{file.stem}, code cell {1 + cells.index(slowest)}, its slowest", "s", slowest, CELL))
    return rows


def hundred_steps() -> float:
    """Seconds of 100 training steps of LoRA on the base's q and v."""
    model, _ = load_base()
    attach(model, LoRA(rank=8, alpha=16))
    ids = torch.randint(3, model.config.vocab_size, (16, 64), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    began = time.perf_counter()
    fit(model, lambda step: dict(batch), steps=100, lr=1e-3, progress=None)
    return time.perf_counter() - began


def run_notebook(file: Path) -> tuple[float, list[float]]:
    """Run a notebook as it is, and write nothing back.

    Returns:
        Seconds of the whole, the kernel's start included, and of every code cell.
    """
    build, nbformat = need("pefteach.workshop.build.lessons"), need("nbformat")
    notebook = nbformat.read(file, 4)
    began = time.perf_counter()
    cells = build.run(notebook, file.parent, file.name)
    return time.perf_counter() - began, cells
