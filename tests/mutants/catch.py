"""Put each mutant in place and see which checks notice."""

import json as json_
import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import rich
from rich.table import Table
from tqdm import tqdm

from contract.checks import CHECKS
from mutants.mutant import Mutant
from pefteach.workshop.machine import machine
from pefteach.workshop.parity.cases import CASES
from pefteach.workshop.parity.compare import compare, quiet


def all_mutants() -> list[Mutant]:
    """The mutants of every file in this folder, but of files whose reference is not installed here."""
    found = []
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not module.name.startswith(("test_", "__")):
            try:
                found += getattr(import_module(f"mutants.{module.name}"), "MUTANTS", [])
            except pytest.skip.Exception:
                continue
    return found


def checks_for(mutant: Mutant) -> dict[str, Callable[[], None]]:
    """The checks that look for it: for a method parity, where it is compared, and the contract; and its own."""
    checks: dict[str, Callable[[], None]] = {}
    if mutant.of in CASES:
        case = CASES[mutant.of]
        if mutant.family in case.compared_on:
            checks["equals its reference"] = lambda: parity(mutant)
        for name, check in CHECKS.items():
            checks[name] = lambda check=check: check(case, mutant.family)
    for test in mutant.checks:
        checks[test.__name__.removeprefix("test_").removeprefix("check_").replace("_", " ")] = test
    return checks


def parity(mutant: Mutant) -> None:
    """The method equals its reference."""
    assert compare(CASES[mutant.of], mutant.family).largest <= 1e-5


def caught_by(mutant: Mutant, all_of_them: bool = True) -> list[str]:
    """The checks that fail while the mutant is in place: all of them, or the first."""
    found = []
    for name, check in checks_for(mutant).items():
        with mutant.in_place():
            try:
                check()
            except (Exception, pytest.fail.Exception):  # a mutant that crashes is caught as well
                found.append(name)
        if found and not all_of_them:
            break
    return found


def print_mutants(json: bool = False, of: str | None = None) -> int:
    """Let every check look for every mutant, or for those of one thing, and print which found it.

    Returns:
        0 if each was caught, else 1.
    """
    rows = []
    with quiet():
        for mutant in tqdm(all_mutants(), desc="mutants", leave=False, disable=None):
            if of in (None, mutant.of):
                found = caught_by(mutant)
                rows.append({
                    "name": str(mutant), "family": mutant.family, "ours": len(found), "peer": None,
                    "ratio": None, "bar": 1, "holds": bool(found), "caught_by": found,
                })  # fmt: skip
    if json:
        print(json_.dumps({"machine": machine(), "rows": rows}, indent=2))
    else:
        table = Table("wrong implementation", "on", "caught by", title="Mutants")
        for row in rows:
            table.add_row(row["name"], row["family"], "; ".join(row["caught_by"]) or "NOTHING")
        rich.print(table)
        print(f"{sum(row['holds'] for row in rows)} of {len(rows)} wrong implementations are caught.")
    return 0 if all(row["holds"] for row in rows) else 1
