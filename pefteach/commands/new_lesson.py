"""``pefteach new-lesson``."""

from __future__ import annotations

from typing import Annotated

import typer


def new_lesson(
    number: Annotated[int, typer.Argument(help="Its place in the course, from 1 to 99.")],
    name: Annotated[str, typer.Argument(help="Its folder's name, such as soft_prompts.")],
) -> None:
    """Start a lesson: a folder with script, figures, explorer and exercises that builds and waits for your text."""
    from pefteach.workshop.new_lesson.make import make_lesson

    folder = make_lesson(number, name)
    print(
        f"{folder} is there, and its row is in pefteach/lessons/catalogue.py. Next:\n"
        f"1. pefteach build {number:02}_{name}   builds it as it is\n"
        f"2. replace every TODO, there and in the catalogue, and write at least three more exercises\n"
        f"3. add its row to the table of README.md\n"
        f"4. pefteach build             builds the links from its neighbours, too"
    )
