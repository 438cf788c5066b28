"""The command line: quick to say what it can, one sentence when it cannot."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from pefteach.cli import app

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "matplotlib", "ipywidgets", "jupyterlab")
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


def pefteach(*arguments: str) -> subprocess.CompletedProcess:
    code = "from pefteach.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_help_names_every_command_and_loads_nothing_heavy():
    code = (
        "import sys; from pefteach.cli import app; sys.argv = ['pefteach', '--help']\n"
        "try: app()\n"
        f"finally: print('loaded:', sorted({set(HEAVY)} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "loaded: []" in done.stdout
    for command in COMMANDS:
        assert f" {command} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    done = CliRunner().invoke(app, [command, "--help"])
    assert done.exit_code == 0 and "Usage" in done.output


def test_a_mistake_is_one_sentence():
    done = pefteach("bench", "speed")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == ("pefteach: no benchmark is called 'speed': choose one of lessons, methods, start, widgets\n")


def test_an_unknown_command_is_refused():
    assert pefteach("fly").returncode == 2
