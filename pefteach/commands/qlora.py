"""``pefteach qlora``: the options of a run, and how its result is told."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from pefteach.qlora.settings import Settings

DEFAULT: dict[str, Any] = {field.name: field.default for field in fields(Settings)}


def qlora(
    model: Annotated[str, Option(help="A causal language model: a name on the hub or a folder.")],
    data: Annotated[Path, Option(help='JSONL, a line like {"prompt": "…", "response": "…"}.')],
    out: Annotated[Path, Option(help="The folder for the adapter; an interrupted run goes on.")] = Path("qlora-out"),
    eval_data: Annotated[Path | None, Option(help="JSONL to evaluate on; a share of the data if none.")] = None,
    eval_share: Annotated[float, Option(help="That share.")] = DEFAULT["eval_share"],
    eval_every: Annotated[int, Option(help="Evaluate after so many steps, too; 0: only before and after.")] = 0,
    rank: Annotated[int, Option(help="LoRA's rank.")] = DEFAULT["rank"],
    alpha: Annotated[float, Option(help="LoRA's alpha.")] = DEFAULT["alpha"],
    dropout: Annotated[float, Option(help="LoRA's dropout.")] = DEFAULT["dropout"],
    lora_dtype: Annotated[str, Option(help="float32 or bfloat16: the precision of LoRA.")] = DEFAULT["lora_dtype"],
    kind: Annotated[str, Option(help="nf4 or fp4.")] = DEFAULT["kind"],
    backend: Annotated[str, Option(help="auto, pefteach or bitsandbytes: whose 4-bit layers.")] = DEFAULT["backend"],
    lr: Annotated[float, Option(help="The learning rate.")] = DEFAULT["lr"],
    schedule: Annotated[str, Option(help="constant, linear or cosine.")] = DEFAULT["schedule"],
    warmup: Annotated[float, Option(help="The share of the steps in which the rate rises.")] = DEFAULT["warmup"],
    clip: Annotated[float, Option(help="The largest norm of the gradient.")] = DEFAULT["clip"],
    optimizer: Annotated[str, Option(help="paged-adamw-32bit, paged-adamw-8bit or adamw.")] = DEFAULT["optimizer"],
    epochs: Annotated[float, Option(help="How often to go through the data.")] = DEFAULT["epochs"],
    batch_size: Annotated[int, Option(help="Rows per step, over all processes.")] = DEFAULT["batch_size"],
    accumulate: Annotated[int, Option(help="In how many parts each process takes its rows.")] = DEFAULT["accumulate"],
    length: Annotated[int, Option(help="Tokens per row; longer examples are left out.")] = DEFAULT["length"],
    packing: Annotated[bool, Option(help="Put several short examples in a row.")] = DEFAULT["packing"],
    checkpointing: Annotated[bool, Option(help="Compute the blocks twice, to keep less.")] = DEFAULT["checkpointing"],
    seed: Annotated[int, Option(help="The same seed gives the same run.")] = DEFAULT["seed"],
    checkpoint_seconds: Annotated[float, Option(help="How often to store the state of the run.")] = 60.0,
    samples: Annotated[int, Option(min=0, help="How many held-out prompts to answer, before and after.")] = 2,
    cpu: Annotated[bool, Option(help="Leave the GPU alone.")] = False,
) -> None:
    """Train LoRA on a model in 4 bits. In several processes: accelerate launch -m pefteach qlora …"""
    given = locals()
    values: dict[str, Any] = {name: str(v) if isinstance(v := given[name], Path) else v for name in DEFAULT}

    import torch

    from pefteach.qlora.run import run

    try:
        result = run(Settings(**values), out, checkpoint_seconds=checkpoint_seconds, samples=samples, cpu=cpu)
    except torch.cuda.OutOfMemoryError:
        raise ValueError("the GPU has too little memory: raise --accumulate, or lower --length or --rank") from None
    if result is not None:
        tell(result, out)


def tell(result: dict, out: Path) -> None:
    """Print what a run came to."""
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
