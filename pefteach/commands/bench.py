"""``pefteach bench``."""

from __future__ import annotations

from typing import Annotated

import typer

from pefteach.commands.options import Json


def bench(
    name: Annotated[str, typer.Argument(help="methods, quant, qlora, gpu, widgets, lessons or start.")],
    json: Json = False,
    write: Annotated[bool, typer.Option(help="With gpu: also write docs/gpu.md.")] = False,
) -> None:
    """Measure speed, as ratios of medians with the arms taking turns."""
    from pefteach.workshop.clone import need_clone

    if write:
        need_clone("bench --write")
    from pefteach.workshop.bench import print_bench

    print_bench(name, json, write)
