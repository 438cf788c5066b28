"""``pefteach checks``."""

from __future__ import annotations

import typer

from pefteach.commands.options import Json


def checks(json: Json = False) -> None:
    """Try the checks of all exercises: on stubs, on right answers and on every known mistake."""
    from pefteach.workshop.checks import print_checks

    raise typer.Exit(print_checks(json))
