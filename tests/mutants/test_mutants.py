"""Every wrong implementation is caught by at least one check."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutants.catch import all_mutants, caught_by

KERNEL = "4-bit kernel"  # what Triton runs on a CPU only in a process that asked for it before importing it
KERNELS = [mutant for mutant in all_mutants() if mutant.of == KERNEL]
MUTANTS = [mutant for mutant in all_mutants() if mutant.of != KERNEL]
CHECKS = {check for mutant in MUTANTS for check in mutant.checks}


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_is_caught(mutant):
    assert caught_by(mutant, all_of_them=False), "no check notices"


@pytest.fixture(scope="module")
def caught_in_the_interpreter():
    """Which wrong kernels are caught, by name."""
    command = [sys.executable, "-m", "mutants", "--json", "--of", KERNEL]
    env = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=Path(__file__).parents[1], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stderr
    return {row["name"]: row["holds"] for row in json.loads(done.stdout)["rows"]}


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_is_caught_in_the_interpreter(kernel, caught_in_the_interpreter):
    assert caught_in_the_interpreter[str(kernel)], "no check notices"


@pytest.mark.parametrize("check", sorted(CHECKS, key=lambda check: check.__name__))
def test_the_check_passes_where_nothing_is_wrong(check):
    check()
