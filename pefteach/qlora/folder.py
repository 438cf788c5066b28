"""The folder of a run: ``run.json`` says which run it belongs to, and in the end what came out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from pefteach.interop.peft_files import WEIGHTS
from pefteach.qlora.settings import Settings

RUN = "run.json"
TRAINING = "training.safetensors"  # the checkpoint from which an interrupted run goes on


def claim(out: Path, settings: Settings) -> dict:
    """Take a folder for this run: a new one, or one in which the same run was interrupted.

    Returns:
        What the folder's ``run.json`` says now: the settings, and a digest of the data.

    Raises:
        ValueError: the folder holds a finished run, another one, or an adapter of another origin.
    """
    file = Path(out) / RUN
    wanted = asdict(settings) | {"sha256 of the data": _digest(settings)}
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        if "result" in found:
            raise ValueError(f"{out} holds a finished run: choose another folder with --out")
        others = [key for key in wanted if found.get(key) != wanted[key]]
        if others and (Path(out) / TRAINING).exists():
            raise ValueError(f"{out} holds an interrupted run with another {', '.join(others)}: choose another --out")
    elif (Path(out) / WEIGHTS).exists():
        raise ValueError(f"{out} holds an adapter that no run here made: choose another folder with --out")
    write_run(out, wanted)
    return wanted


def write_run(out: Path, content: dict) -> None:
    """Write ``run.json``, whole or not at all."""
    Path(out).mkdir(parents=True, exist_ok=True)
    partial = Path(out) / f"{RUN}.partial"
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(Path(out) / RUN)


def _digest(settings: Settings) -> str:
    """The SHA-256 of the files of data, one after the other."""
    files = [Path(file) for file in (settings.data, settings.eval_data) if file]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
