"""``pefteach checks``."""

from __future__ import annotations

import typer

from pefteach.commands.options import Json


def checks(json: Json = False) -> None:
    """Check the checks: stubs, right answers and every misconception of every exercise."""
    from pefteach.workshop.checks import print_checks

    raise typer.Exit(print_checks(json))
