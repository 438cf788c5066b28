"""What decides the outcome of a QLoRA run, and the folder that remembers it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

RUN = "run.json"
TRAINING = "training.safetensors"  # what an interrupted run goes on from


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
        """Raise a ValueError for a number that is out of range."""
        for name in ("epochs", "batch_size", "accumulate", "length", "lr", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 < self.eval_share < 1:
            raise ValueError(f"eval_share must be between 0 and 1, not {self.eval_share}")
        if self.lora_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"lora_dtype must be float32 or bfloat16, not {self.lora_dtype!r}")


def claim(out: Path, settings: Settings) -> None:
    """Take a folder for this run: a new one, or one in which the same run was interrupted.

    Raises:
        ValueError: the folder holds a finished run or another one.
    """
    file = Path(out) / RUN
    wanted = facts(settings)
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        if "result" in found:
            raise ValueError(f"{out} holds a finished run: choose another folder with --out")
        others = [key for key in wanted if found.get(key) != wanted[key]]
        if others and (Path(out) / TRAINING).exists():
            raise ValueError(f"{out} holds an interrupted run with another {', '.join(others)}: choose another --out")
    remember(out, wanted)


def facts(settings: Settings) -> dict:
    """The settings, with a digest of the data."""
    files = [Path(file) for file in (settings.data, settings.eval_data) if file]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return asdict(settings) | {"data_sha256": digest}


def remember(out: Path, what: dict) -> None:
    """Write ``run.json``."""
    Path(out).mkdir(parents=True, exist_ok=True)
    (Path(out) / RUN).write_text(json.dumps(what, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
