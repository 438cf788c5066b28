"""``pefteach mutants``."""

from __future__ import annotations

import sys

import typer

from pefteach.commands.options import Json


def mutants(json: Json = False) -> None:
    """Write every technique wrong in the ways people do, and print which tests notice."""
    from pefteach.paths import ROOT

    if not (ROOT / "tests" / "mutants").exists():
        raise ValueError("the wrong implementations are in the repository's tests/: run this from a clone")
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from mutants.catch import print_mutants
    except ImportError as error:
        raise ValueError(f"cannot import {error.name}: run `pip install 'pefteach[test]'`") from None

    raise typer.Exit(print_mutants(json))
