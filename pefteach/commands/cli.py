"""The command line: one file per command. Each imports what it needs when it runs, so that ``--help`` is instant."""

from __future__ import annotations

import sys

import typer

from pefteach.commands.bench import bench
from pefteach.commands.build import build
from pefteach.commands.card import card
from pefteach.commands.checks import checks
from pefteach.commands.convert import convert
from pefteach.commands.doctor import doctor
from pefteach.commands.lab import lab
from pefteach.commands.mutants import mutants
from pefteach.commands.new_lesson import new_lesson
from pefteach.commands.parity import parity
from pefteach.commands.plan import plan
from pefteach.commands.pretrain import pretrain
from pefteach.commands.qlora import qlora
from pefteach.commands.rooms import rooms

app = typer.Typer(
    help="Learn parameter-efficient fine-tuning by building it.", no_args_is_help=True, add_completion=False
)
for command in (
    lab,
    doctor,
    plan,
    qlora,
    convert,
    pretrain,
    card,
    build,
    new_lesson,
    checks,
    bench,
    parity,
    mutants,
    rooms,
):
    app.command(command.__name__.replace("_", "-"))(command)


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
