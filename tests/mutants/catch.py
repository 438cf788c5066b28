"""Apply each mutant and see which checks notice."""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from contract.checks import CHECKS
from mutants.mutant import Mutant
from pefteach.parity.cases import CASES
from pefteach.parity.compare import compare


def all_mutants() -> list[Mutant]:
    """The lists of every file in this folder that has one."""
    files = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    modules = [import_module(f"mutants.{name}") for name in files if not name.startswith("test_")]
    return [mutant for module in modules for mutant in getattr(module, "MUTANTS", [])]


def checks_for(mutant: Mutant) -> dict[str, Callable[[], None]]:
    """What looks for it: parity where its case is compared, the contract, and the tests it names."""
    case = CASES[mutant.case]
    checks: dict[str, Callable[[], None]] = {}
    if mutant.family in case.compared_on:
        checks["equals its reference"] = lambda: parity(mutant)
    for name, check in CHECKS.items():
        checks[name] = lambda check=check: check(case, mutant.family)
    for test in mutant.checks:
        checks[test.__name__.removeprefix("test_").replace("_", " ")] = test
    return checks


def parity(mutant: Mutant) -> None:
    assert compare(CASES[mutant.case], mutant.family).largest <= 1e-5


def caught_by(mutant: Mutant, all_of_them: bool = True) -> list[str]:
    """The checks that fail while the mutant is in place: all of them, or the first."""
    found = []
    for name, check in checks_for(mutant).items():
        with pytest.MonkeyPatch.context() as monkeypatch:
            mutant.patch(monkeypatch)
            try:
                check()
            except (Exception, pytest.fail.Exception):  # a mutant that crashes is caught as well
                found.append(name)
        if found and not all_of_them:
            break
    return found
