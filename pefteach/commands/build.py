"""``pefteach build``."""

from __future__ import annotations

from typing import Annotated

import typer


def build(
    names: Annotated[list[str] | None, typer.Argument(help="Lessons to build, such as 07_lora; all if none.")] = None,
    check: Annotated[bool, typer.Option(help="Run nothing: fail if a notebook is not what its source says.")] = False,
) -> None:
    """Run the lessons' sources and store the notebooks with their outputs; generate the exercises' student versions."""
    from pefteach.workshop.build.lessons import build_course

    raise typer.Exit(build_course(names or [], check))
