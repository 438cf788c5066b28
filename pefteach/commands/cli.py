"""The command line. Every command imports what it needs when it runs, so that ``pefteach --help`` is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pefteach.commands.qlora import qlora

app = typer.Typer(
    help="Learn parameter-efficient fine-tuning by building it.", no_args_is_help=True, add_completion=False
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]


@app.command()
def lab(
    port: Annotated[int, typer.Option(help="The port to listen on, on this computer only.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
) -> None:
    """Open the course in JupyterLab."""
    from pefteach.commands.lab import open_lab

    raise typer.Exit(open_lab(port, browser))


@app.command()
def doctor() -> None:
    """Say what this machine can do, and what to do about what it can't."""
    from pefteach.commands.doctor import print_report

    raise typer.Exit(print_report())


@app.command()
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


@app.command()
def card(folder: Annotated[Path | None, typer.Argument(help="The base; the one that ships if none.")] = None) -> None:
    """Measure a base again and write its MODEL_CARD.md."""
    from rich import print_json

    from pefteach.paths import BASE
    from pefteach.workshop.model_card import write_card

    print_json(data=write_card(folder or BASE))


@app.command()
def build(
    names: Annotated[list[str] | None, typer.Argument(help="Lessons to build, such as 07_lora; all if none.")] = None,
    check: Annotated[bool, typer.Option(help="Run nothing: fail if a notebook is not what its source says.")] = False,
) -> None:
    """Run the lessons' sources and store the notebooks with their outputs; generate the exercises' student versions."""
    from pefteach.workshop.build.lessons import build_course

    raise typer.Exit(build_course(names or [], check))


@app.command()
def checks(json: Json = False) -> None:
    """Check the checks: stubs, right answers and every misconception of every exercise."""
    from pefteach.workshop.checks import print_checks

    raise typer.Exit(print_checks(json))


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="methods, quant, qlora, gpu, widgets, lessons or start.")],
    json: Json = False,
    write: Annotated[bool, typer.Option(help="With gpu: also write docs/gpu.md.")] = False,
) -> None:
    """Measure speed, as ratios of medians with the arms taking turns."""
    from pefteach.workshop.bench import print_bench

    print_bench(name, json, write)


@app.command()
def parity(
    names: Annotated[list[str] | None, typer.Argument(help="Methods to compare, such as DoRA; all if none.")] = None,
    json: Json = False,
    write: Annotated[bool, typer.Option(help="Also write docs/parity.md.")] = False,
) -> None:
    """Print the largest difference of every method from its reference library, on tiny models of every family."""
    from pefteach.workshop.parity.report import print_parity

    raise typer.Exit(print_parity(names or [], json, write))


@app.command()
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


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="The folder of an adapter, written by peft, adapters or pefteach.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    to: Annotated[str, typer.Option(help="peft, adapters, or merged: the whole model with it in the weights.")],
    model: Annotated[str | None, typer.Option(help="A Hugging Face model; the course's base if none.")] = None,
) -> None:
    """Write an adapter in another library's format, or merge it into its model."""
    from pefteach.interop.convert import convert as run

    print(run(source, out, to, model))


app.command()(qlora)


@app.command()
def mutants(json: Json = False) -> None:
    """Write every technique wrong in the ways people do, and print which tests notice."""
    from pefteach.paths import ROOT

    if not (ROOT / "tests" / "mutants").exists():
        raise ValueError("the wrong implementations are in the repository's tests/: run this from a clone")
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from mutants.catch import print_mutants
    except ImportError as error:
        raise ValueError(f"cannot import {error.name}: run `pip install 'pefteach[test]'`") from None

    raise typer.Exit(print_mutants(json))


def main() -> None:
    """Run a command; a mistake in what it was given, or a package that is missing, becomes one sentence."""
    try:
        app()
    except ModuleNotFoundError as error:
        if (error.name or "pefteach").startswith("pefteach"):
            raise
        sys.exit(f"pefteach: no package {error.name} is installed: run `pip install -e '.[test]'` in the repository")
    except (ValueError, OSError) as error:
        sys.exit(f"pefteach: {error}")
