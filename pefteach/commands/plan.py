"""``pefteach plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pefteach.commands.options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from pefteach.memory.plan import Plan

GIB = 2**30


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
    import rich

    from pefteach.memory.plan import make_plan

    found = make_plan(model, method, settings or [], batch, length, precision, checkpointing, optimizer)
    if json:
        rich.print_json(data=found.to_json())
        return
    recomputed = ", blocks computed again" if checkpointing else ""
    print(f"{method} on {model}: {batch} × {length} tokens, base in {found.precision}, {optimizer}{recomputed}")
    rich.print(_table(found))
    print(*_notes(found), sep="\n")


def _table(found: Plan) -> Table:
    """The bytes by phase, their peak, and the cards."""
    from rich.table import Table

    drawn = Table("", "GiB")
    drawn.columns[1].justify = "right"
    for phase in ("weights", "gradients", "optimizer", "activations"):
        drawn.add_row(phase, f"{getattr(found.bytes, phase) / GIB:.3f}")
    drawn.add_section()
    drawn.add_row("peak", f"{(found.bytes.peak or 0) / GIB:.3f}")
    drawn.add_section()
    for card, holds in found.fits().items():
        drawn.add_row(f"fits {card} GB", "yes" if holds else "no")
    return drawn


def _notes(found: Plan) -> list[str]:
    """What the table leaves out."""
    notes = [
        "The peak is the most at any moment of a step. A GPU takes about 0.5 GB more for itself.",
        "A method that trains the base in place keeps a copy of the tensors that train, "
        f"{found.bytes.gradients / GIB:.3f} GiB.",
    ]
    if found.bytes.paged:
        notes.append(f"Of the optimizer, {found.bytes.paged / GIB:.3f} GiB leave the GPU when it needs the room.")
    return notes
