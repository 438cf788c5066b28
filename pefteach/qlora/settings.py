"""What decides the outcome of a QLoRA run, and the folder that remembers it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

RUN = "run.json"
TRAINING = "training.safetensors"  # what an interrupted run goes on from

CHOICES = {
    "kind": ("nf4", "fp4"),
    "backend": ("auto", "pefteach", "bitsandbytes"),
    "optimizer": ("adamw", "paged-adamw-32bit", "paged-adamw-8bit"),
    "schedule": ("constant", "linear", "cosine"),
    "lora_dtype": ("float32", "bfloat16"),
}


@dataclass(frozen=True)
class Settings:
    """The options of ``pefteach qlora``. Rank, alpha, rate, schedule, clipping and optimiser are the paper's."""

    model: str
    data: str
    eval_data: str | None = None
    eval_share: float = 0.05
    eval_every: int = 0
    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.0
    lora_dtype: str = "float32"
    kind: str = "nf4"
    backend: str = "auto"
    lr: float = 2e-4
    schedule: str = "constant"
    warmup: float = 0.03
    clip: float = 0.3
    optimizer: str = "paged-adamw-32bit"
    epochs: float = 1.0
    batch_size: int = 16
    accumulate: int = 1
    length: int = 1024
    packing: bool = True
    checkpointing: bool = True
    seed: int = 0

    def check(self) -> None:
        """Raise a ValueError for a setting that cannot be, before a large model is opened for nothing."""
        for name in ("epochs", "batch_size", "accumulate", "length", "rank", "alpha", "lr", "clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be above 0, not {value}")
        for name, most in {"eval_share": 1, "dropout": 1, "warmup": 1, "eval_every": math.inf}.items():
            if not 0 <= getattr(self, name) < most:
                raise ValueError(f"{name} must be at least 0 and below {most}, not {getattr(self, name)}")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate must be at most the batch_size of {self.batch_size}, not {self.accumulate}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")


def claim(out: Path, settings: Settings) -> dict:
    """Take a folder for this run: a new one, or one in which the same run was interrupted.

    Returns:
        What the folder's ``run.json`` says now.

    Raises:
        ValueError: the folder holds a finished run, another one, or an adapter of another origin.
    """
    from pefteach.interop.peft_files import WEIGHTS  # only now: `pefteach --help` reads this file, and is quick

    file = Path(out) / RUN
    wanted = facts(settings)
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        if "result" in found:
            raise ValueError(f"{out} holds a finished run: choose another folder with --out")
        others = [key for key in wanted if found.get(key) != wanted[key]]
        if others and (Path(out) / TRAINING).exists():
            raise ValueError(f"{out} holds an interrupted run with another {', '.join(others)}: choose another --out")
    elif (Path(out) / WEIGHTS).exists():
        raise ValueError(f"{out} holds an adapter that no run here made: choose another folder with --out")
    remember(out, wanted)
    return wanted


def facts(settings: Settings) -> dict:
    """The settings, with a digest of the lines of data."""
    files = [Path(file) for file in (settings.data, settings.eval_data) if file]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return asdict(settings) | {"sha256 of the data": digest}


def remember(out: Path, what: dict) -> None:
    """Write ``run.json``, whole or not at all."""
    Path(out).mkdir(parents=True, exist_ok=True)
    partial = Path(out) / f"{RUN}.partial"
    partial.write_text(json.dumps(what, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(Path(out) / RUN)
