"""``pefteach card``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def card(folder: Annotated[Path | None, typer.Argument(help="The base; the one that ships if none.")] = None) -> None:
    """Measure a base again and write its MODEL_CARD.md."""
    from pefteach.workshop.clone import need_clone

    if folder is None:
        need_clone("card without a folder")
    from rich import print_json

    from pefteach.paths import BASE
    from pefteach.workshop.model_card import write_card

    print_json(data=write_card(folder or BASE))
