"""What this machine can do for the course, and what to do about the rest.

Every check runs in a process of its own: a package that is broken, even one that takes its process down with it,
costs a line of the report and not the report.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import typer

SECONDS = 120  # the slowest import from a cold disk takes a tenth of that
AGAIN = "install pefteach again: its wheel, or a whole clone"


def python() -> str:
    return platform.python_version()


def versions() -> str:
    from importlib.metadata import requires, version

    from packaging.requirements import Requirement

    needed = [each for each in map(Requirement, requires("pefteach") or []) if not each.marker]  # an extra is a marker
    for each in needed:
        found = version(each.name)
        if not each.specifier.contains(found, prereleases=True):
            sys.exit(f"{each.name} is {found}, and the course needs {each}")
    return f"{len(needed)} packages, none too old or too new"


def torch() -> str:
    import torch

    (torch.ones(2, 3) @ torch.ones(3, 2)).sum().item()
    return f"{torch.__version__} with {torch.get_num_threads()} threads"


def transformers() -> str:
    from transformers import LlamaForCausalLM, __version__

    return f"{__version__} ({LlamaForCausalLM.__name__})"


def peft() -> str:
    from peft import LoraConfig, __version__

    return f"{__version__} ({LoraConfig.__name__})"


def jupyterlab() -> str:
    import ipykernel
    import jupyterlab

    return f"{jupyterlab.__version__} with ipykernel {ipykernel.__version__}"


def explorers() -> str:
    import ipywidgets
    import jupyterlab_widgets  # noqa: F401  the half of ipywidgets that lives in the browser

    import pefteach.lessons.kit.panel  # noqa: F401

    return f"ipywidgets {ipywidgets.__version__}"


def base() -> str:
    from pefteach.model.base import check_base

    check_base()
    return "every file is as it was made"


def lessons() -> str:
    from pefteach.paths import COURSE

    found = len(list(COURSE.glob("[0-9][0-9]_*.ipynb")))
    if not found:
        sys.exit(f"there is none in {COURSE}")
    return f"{found} in {COURSE}"


def gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device")
    card = torch.cuda.get_device_properties(0)
    torch.ones(2, device="cuda").sum().item()
    return f"{card.name}, {card.total_memory / 2**30:.0f} GiB"


def bitsandbytes() -> str:
    import bitsandbytes
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight = torch.ones(64, 64, device=device)
    packed, scales = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4")
    if not torch.equal(bitsandbytes.functional.dequantize_4bit(packed, scales), weight):
        sys.exit(f"{bitsandbytes.__version__} unpacks wrong values on the {device.upper()}")
    return f"{bitsandbytes.__version__}, packs 4-bit weights on the {device.upper()}"


def nbgrader() -> str:
    import nbgrader

    return nbgrader.__version__


@dataclass(frozen=True)
class Check:
    """A function that returns what it found, or fails; what to do then; and whether the course needs it."""

    name: str
    probe: Callable[[], str]
    remedy: str
    needed: bool = True


CHECKS = (
    Check("Python", python, "install Python 3.10 or newer"),
    Check("versions", versions, "install pefteach again: pip gets the right ones"),
    Check("torch", torch, "pip install torch"),
    Check("transformers", transformers, "pip install 'transformers>=4.56,<5'"),
    Check("peft", peft, "pip install peft"),
    Check("JupyterLab", jupyterlab, "pip install jupyterlab ipykernel"),
    Check("explorers", explorers, "pip install ipywidgets matplotlib"),
    Check("base model", base, AGAIN),
    Check("lessons", lessons, AGAIN),
    Check("GPU", gpu, "nothing to do: every lesson runs on the CPU", needed=False),
    Check("bitsandbytes", bitsandbytes, "pip install bitsandbytes to compare 4-bit weights with it", needed=False),
    Check("nbgrader", nbgrader, "pip install nbgrader to teach a class", needed=False),
)


def print_report() -> int:
    """Print a line per check. 0 if the course can run here, else 1."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        results = list(zip(CHECKS, pool.map(run, CHECKS), strict=True))
    width = max(len(check.name) for check in CHECKS)
    for check, (works, said) in results:
        mark = "[+] ok      " if works else "[!] missing " if check.needed else "[-] optional"
        print(f"{mark}  {check.name:{width}}  {said}")
        if not works:
            print(f"{'':{width + 16}}{check.remedy}")
    missing = [check.name for check, (works, _) in results if check.needed and not works]
    print(f"\nThe course cannot run here yet: see {', '.join(missing)}." if missing else "\nThe course can run here.")
    return 1 if missing else 0


def run(check: Check) -> tuple[bool, str]:
    """Whether it works, and what it said: what it found, or the reason why not."""
    code = f"from pefteach.commands import doctor; print(doctor.{check.probe.__name__}())"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return False, f"no answer within {SECONDS} seconds"
    if done.returncode < 0:
        return False, f"it crashed Python (signal {-done.returncode})"
    return done.returncode == 0, _last_line(done.stderr if done.returncode else done.stdout)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no reason"


def doctor() -> None:
    """Say what this machine can do, and what to do about what it can't."""
    raise typer.Exit(print_report())
