"""The machine and the versions that a figure was measured with."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

PACKAGES = ("torch", "transformers", "peft", "adapters", "bitsandbytes", "matplotlib", "ipywidgets", "jupyterlab")


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
