"""``pefteach build``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def build(
    names: Annotated[list[str] | None, typer.Argument(help="Lessons to build, such as 07_lora; all if none.")] = None,
    check: Annotated[bool, typer.Option(help="Run nothing: fail if a notebook is not what its source says.")] = False,
    masters: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write the exercises as nbgrader masters, with solutions, and build nothing else."
        ),
    ] = None,
) -> None:
    """Run the lessons and store their notebooks with the outputs; write the index and the exercises."""
    if masters is None:
        from pefteach.workshop.build.course import build_course

        raise typer.Exit(build_course(names or [], check))
    if check:
        raise ValueError("--check looks at course/, where no masters lie: leave out --check or --masters")
    from pefteach.lessons.catalogue import lessons_named
    from pefteach.workshop.build.masters import write_masters

    new = write_masters(masters, lessons_named(names or []))
    print("\n".join(map(str, new)) or f"The masters in {masters} are up to date.")
