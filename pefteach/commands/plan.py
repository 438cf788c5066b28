"""``pefteach plan``."""

from __future__ import annotations

from typing import Annotated

import typer

from pefteach.commands.options import Json


def plan(
    model: Annotated[str, typer.Option(help="A known shape such as Llama-2-7B, a folder, or a name on the hub.")],
    method: Annotated[str, typer.Option(help="qlora, lora, fullfinetuning … as in pefteach.methods.")] = "lora",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="One of its settings: rank=16, target_modules=all-linear …")
    ] = None,
    batch: Annotated[int, typer.Option(help="Rows.")] = 1,
    length: Annotated[int, typer.Option(help="Tokens per row.")] = 512,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or nf4; if none, nf4 for qlora, else bf16.")] = None,
    checkpointing: Annotated[
        bool, typer.Option(help="Compute blocks again instead of keeping what they need.")
    ] = False,
    optimizer: Annotated[str, typer.Option(help="adamw, adamw-8bit, paged-adamw-32bit or paged-adamw-8bit.")] = "adamw",
    json: Json = False,
) -> None:
    """Print what a training step will need, and which cards hold it, before anything is loaded."""
    from pefteach.memory.plan import print_plan

    print_plan(model, method, settings or [], batch, length, precision, checkpointing, optimizer, json)
