"""The command line: quick to say what it can, one sentence when it cannot."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from fakes import block
from pefteach.commands import cli
from pefteach.commands.cli import app

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "matplotlib", "ipywidgets", "jupyterlab")
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


def pefteach(*arguments: str) -> subprocess.CompletedProcess:
    code = "from pefteach.commands.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_help_names_every_command_and_loads_nothing_heavy():
    code = (
        "import sys; from pefteach.commands.cli import app; sys.argv = ['pefteach', '--help']\n"
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bench", "speed"], "no benchmark is called 'speed': choose one of "),
        (["build", "7_lora"], "no lesson is called '7_lora'; there are: 01_transformer_review, "),
        (["build", "--check", "7_lora"], "no lesson is called '7_lora'; there are: 01_transformer_review, "),
        (["lab", "--port", "70000"], "a port is a number from 1 to 65535, not 70000"),
        (["card", "nowhere"], "no base at nowhere: clone the whole repository"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence):
    done = pefteach(*arguments)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"pefteach: {sentence}") and done.stderr.count("\n") == 1


def test_a_missing_package_is_one_sentence(monkeypatch, tmp_path):
    block(monkeypatch, tmp_path, "jupytext")
    done = pefteach("build", "--check")
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr == "pefteach: no package jupytext is installed: run `pip install -e '.[test]'` in the repository\n"
    )


def test_a_fault_of_ours_is_not_taken_for_a_missing_package(monkeypatch):
    def app():
        raise ModuleNotFoundError("No module named 'pefteach.biuld'", name="pefteach.biuld")

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(ModuleNotFoundError, match="biuld"):
        cli.main()


def test_it_works_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = pefteach("build", "--check", "7_lora")
    assert "there are: 01_transformer_review" in done.stderr


def test_an_unknown_command_is_refused():
    assert pefteach("fly").returncode == 2
