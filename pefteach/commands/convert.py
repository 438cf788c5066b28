"""``pefteach convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(help="The folder of an adapter, written by peft, adapters or pefteach.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    to: Annotated[str, typer.Option(help="peft, adapters, or merged: the whole model with it in the weights.")],
    model: Annotated[str | None, typer.Option(help="A Hugging Face model; the course's base if none.")] = None,
) -> None:
    """Write an adapter in another library's format, or merge it into its model."""
    from pefteach.interop.convert import convert as run

    print(run(source, out, to, model))
