"""``docs/gpu.md``: what a GPU measured, or that none has yet."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from pefteach.paths import ROOT
from pefteach.workshop.machine import where
from pefteach.workshop.rows import COLUMNS, Row, cells

DOC = ROOT / "docs" / "gpu.md"


def document(rows: Sequence[Row]) -> str:
    """The text of the file; without rows it says that there are none yet, and how to get them."""
    lines = [
        "# How fast is it on a GPU?",
        "",
        "Written by `pefteach bench gpu --write`. It compares this package's QLoRA and its 4-bit kernels with peft and",
        "bitsandbytes on the same Llamas with random weights, and the memory planner with the memory that was taken.",
        "Variants take turns in one process, each timed until the GPU is done with it; a figure is the median over the",
        "rounds. Before it is timed, each variant has to train as many parameters as its peer, start from the same",
        "logits and lower the loss as much. A ratio is ours over the peer's; the limit is the most that the ratio may",
        "be, or our own figure where there is no peer.",
        "",
    ]
    if not rows:
        lines += [
            "**No GPU has run it yet, so there are no figures here.** On a machine with an NVIDIA GPU of compute",
            "capability 8.0 (Ampere) or later and 40 GB of memory, these run it, and the tests that need a GPU:",
            "",
            "```sh",
            "pip install -e '.[test]' -c constraints.txt",
            "pefteach bench gpu --write",
            "pytest -m gpu",
            "```",
        ]
        return "\n".join(lines) + "\n"
    lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    lines += ["", f"Measured on {date.today().isoformat()} with: {where()}."]
    return "\n".join(lines) + "\n"
