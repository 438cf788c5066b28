"""``pefteach mutants``."""

from __future__ import annotations

import os
import subprocess
import sys

import typer

from pefteach.commands.options import Json


def mutants(json: Json = False) -> None:
    """Write every technique wrong in the ways people do, and print which tests notice."""
    from pefteach.paths import ROOT

    tests = ROOT / "tests"
    if not (tests / "mutants").exists():
        raise ValueError("the wrong implementations are in the repository's tests/: run this from a clone")
    env = os.environ | {"TRITON_INTERPRET": "1"}  # the wrong kernels run on the CPU
    raise typer.Exit(
        subprocess.run([sys.executable, "-m", "mutants", *["--json"] * json], cwd=tests, env=env).returncode
    )
