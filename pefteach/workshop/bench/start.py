"""How much longer than ``import torch`` a program waits that imports pefteach too."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from pefteach.workshop.bench.timing import median_seconds
from pefteach.workshop.rows import Row, row

TORCH = "import torch"
VARIANTS = {
    "import pefteach": "import torch, pefteach",
    "import base, methods and train": "import torch, pefteach.model.base, pefteach.methods, pefteach.training",
}


def run(rounds: int = 9) -> list[Row]:
    """Seconds beyond torch's own import, each time in a fresh process."""
    seconds = median_seconds({code: partial(_run, code) for code in (TORCH, *VARIANTS.values())}, rounds, warmup=1)
    return [row(f"{name}, beyond torch", "s", seconds[code] - seconds[TORCH], 0.2) for name, code in VARIANTS.items()]


def _run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
