"""``pefteach qlora``: an option for every setting of a run, and the options of this command alone."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from pefteach.qlora.settings import Settings


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Show typer a parameter for every field of ``Settings`` in the place of the command's ``**settings``."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    command.__signature__ = inspect.Signature([*map(_option, fields(Settings)), *own])  # type: ignore[attr-defined]
    return command


def _option(setting: Field) -> inspect.Parameter:
    default = inspect.Parameter.empty if setting.default is MISSING else setting.default
    annotation = Annotated[setting.type, Option(help=setting.metadata["help"])]  # type: ignore[name-defined]
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


@with_settings
def qlora(
    *,
    out: Annotated[Path, Option(help="The folder for the adapter; an interrupted run goes on.")] = Path("qlora-out"),
    checkpoint_seconds: Annotated[float, Option(help="How often to store the state of the run.")] = 60.0,
    samples: Annotated[int, Option(min=0, help="How many held-out prompts to answer, before and after.")] = 2,
    cpu: Annotated[bool, Option(help="Train on the CPU, even if there is a GPU.")] = False,
    **settings: Any,
) -> None:
    """Train LoRA on a model in 4 bits. In several processes: accelerate launch -m pefteach qlora …"""
    import torch

    from pefteach.qlora.run import run

    try:
        result = run(Settings(**settings), out, checkpoint_seconds=checkpoint_seconds, samples=samples, cpu=cpu)
    except torch.cuda.OutOfMemoryError:
        raise ValueError("the GPU has too little memory: raise --accumulate, or lower --length or --rank") from None
    if result is not None:
        print_result(result, out)


def print_result(result: dict, out: Path) -> None:
    """Print the samples, the losses, the speed and the memory of a run."""
    from rich import print
    from rich.markup import escape

    for sample in result["samples"]:
        for key, text in sample.items():
            if text is not None:
                print(f"[bold]{key:>8}[/]  {escape(text) or '(nothing)'}")
    for when in ("before", "after"):
        loss = result[f"loss_{when}"]
        if loss is not None:
            print(f"Loss on held-out responses {when}: {loss:.3f} (perplexity {math.exp(loss):.1f}).")
    speed, memory = result["tokens_per_second"], result["peak_bytes"] / 2**30
    print(f"{speed:,.0f} tokens/s, padding included; at most {memory:.1f} GiB.")
    print(f"The adapter is in {out}; peft opens it.")
