"""``pefteach pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    out: Annotated[Path, typer.Option(help="The folder to make the base in; an interrupted run goes on.")] = Path(
        "base"
    ),
    seed: Annotated[int, typer.Option(help="The same seed makes the same base.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Make the tokenizer and the base from the project's own text."""
    from rich import print_json

    from pefteach.workshop.pretrain import pretrain as run

    print_json(data=run(out, seed=seed, device=device))
