"""How much longer than ``import torch`` a program waits that imports pefteach too."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from pefteach.workshop.bench.measure import Row, row, take_turns

TORCH = "import torch"
ARMS = {
    "import pefteach": "import torch, pefteach",
    "import base, methods and train": "import torch, pefteach.model.base, pefteach.methods, pefteach.training",
}


def measure(rounds: int = 9) -> list[Row]:
    """Seconds beyond torch's own import, each time in a fresh process."""
    seconds = take_turns({code: partial(_run, code) for code in (TORCH, *ARMS.values())}, rounds, warmup=1)
    return [row(f"{name}, beyond torch", "s", seconds[code] - seconds[TORCH], 0.2) for name, code in ARMS.items()]


def _run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
