"""``pefteach parity``."""

from __future__ import annotations

from typing import Annotated

import typer

from pefteach.commands.options import Json


def parity(
    names: Annotated[list[str] | None, typer.Argument(help="Methods to compare, such as DoRA; all if none.")] = None,
    json: Json = False,
    write: Annotated[bool, typer.Option(help="Also write docs/parity.md.")] = False,
) -> None:
    """Print the largest difference of every method from its reference library, on tiny models of every family."""
    from pefteach.workshop.clone import need_clone

    if write:
        need_clone("parity --write")
    from pefteach.workshop.parity.report import print_parity

    raise typer.Exit(print_parity(names or [], json, write))
