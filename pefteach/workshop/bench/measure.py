"""What the benchmarks share: arms that take turns, rows, and the machine they ran on."""

from __future__ import annotations

import gc
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import TypedDict

from tqdm import tqdm

PACKAGES = ("torch", "transformers", "peft", "adapters", "bitsandbytes", "matplotlib", "ipywidgets", "jupyterlab")

COLUMNS = ("", "ours", "peer", "ratio", "bar", "holds")


class Row(TypedDict):
    """One figure. ``bar`` is the most that ``ratio`` may be, or ``ours`` where there is no peer; None for no bar."""

    name: str
    unit: str
    ours: float
    peer: float | None
    ratio: float | None
    bar: float | None
    holds: bool


def row(name: str, unit: str, ours: float, bar: float | None, peer: float | None = None) -> Row:
    """Compare a figure with its bar: the figure itself, or its ratio to the peer's if there is one."""
    ratio = None if peer is None else ours / peer
    holds = bar is None or (ours if ratio is None else ratio) <= bar
    return {"name": name, "unit": unit, "ours": ours, "peer": peer, "ratio": ratio, "bar": bar, "holds": holds}


def cells(row: Row) -> list[str]:
    """A row as people read it. A bar is for the ratio where there is one, and for our own figure elsewhere."""
    unit, ratio, bar = row["unit"], row["ratio"], row["bar"]
    return [
        row["name"],
        figure(row["ours"], unit),
        "" if row["peer"] is None else figure(row["peer"], unit),
        "" if ratio is None else f"{ratio:.3f}",
        "" if bar is None else f"{bar:g}" + (f" {unit}" if ratio is None else ""),
        "" if bar is None else "yes" if row["holds"] else "NO",
    ]


def figure(value: float, unit: str) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"


def take_turns(arms: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, float]:
    """Run every arm once per round and return each arm's median seconds."""
    return {name: statistics.median(taken) for name, taken in seconds(arms, rounds, warmup).items()}


def seconds(arms: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Run every arm once per round and return what each took.

    What disturbs the machine for a while then disturbs all arms alike. Every round has another order, so that none
    always finds the caches as the same neighbour left them.
    """
    names, dice = list(arms), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in arms}
    collecting = gc.isenabled()
    gc.disable()  # a collection would be charged to whichever arm it falls on
    try:
        for turn in tqdm(range(-warmup, rounds), desc="measuring", leave=False, disable=None):
            dice.shuffle(names)
            for name in names:
                began = time.perf_counter()
                arms[name]()
                if turn >= 0:
                    times[name].append(time.perf_counter() - began)
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return times


def machine() -> dict[str, str | int]:
    """Where a figure comes from: processor, cores, system and versions, and the GPU if there is one."""
    facts: dict[str, str | int] = {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "os": platform.platform(terse=True),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "none"
    return facts | _gpu()


def where() -> str:
    """The same facts in one line."""
    return ", ".join(f"{key} {value}" for key, value in machine().items())


def _cpu() -> str:
    listed = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows
    lines = listed.read_text().splitlines() if listed.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _gpu() -> dict[str, str | int]:
    import torch

    if not torch.cuda.is_available():
        return {}
    try:  # torch does not know the driver
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": f"{properties.name} with {properties.total_memory / 2**30:.0f} GiB",
        "driver": driver,
        "cuda": str(torch.version.cuda),
        "triton": need("triton").__version__,
    }


def need(package: str) -> ModuleType:
    """Import what only a benchmark needs.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ValueError(
            f"this benchmark cannot import {package} ({error}): run `pip install 'pefteach[test]'`"
        ) from None
