"""``pefteach qlora``: its options are the settings, and they arrive."""

from dataclasses import MISSING, fields

import pytest
import typer
from typer.testing import CliRunner

from pefteach.commands.cli import app
from pefteach.qlora import run
from pefteach.qlora.settings import Settings

# Another value than the default for every setting.
OTHERS = {
    "model": "a/model", "data": "data.jsonl", "eval_data": "more.jsonl", "eval_share": 0.25, "eval_every": 7, "rank": 3,
    "alpha": 5.0, "dropout": 0.125, "lora_dtype": "bfloat16", "quant_type": "fp4", "backend": "pefteach", "lr": 0.5,
    "schedule": "cosine", "warmup": 0.5, "clip": 2.0, "optimizer": "adamw", "epochs": 2.5, "batch_size": 6,
    "accumulate": 2, "length": 99, "packing": False, "checkpointing": False, "seed": 11,
}  # fmt: skip


@pytest.fixture
def called(monkeypatch):
    """What the command gives to ``run``, instead of a run."""
    seen = []
    monkeypatch.setattr(run, "run", lambda settings, out, **how: seen.append((settings, out, how)))
    return seen


def words(settings: dict) -> list[str]:
    """The same as a command line."""
    found = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        found += (
            ([f"--{flag}"] if value else [f"--no-{flag}"]) if isinstance(value, bool) else [f"--{flag}", str(value)]
        )
    return found


def test_every_setting_is_an_option_with_its_default():
    options = {option.name: option for option in typer.main.get_command(app).commands["qlora"].params}
    for setting in fields(Settings):
        option = options[setting.name]
        assert option.help == setting.metadata["help"] and option.required is (setting.default is MISSING)
        assert setting.default is MISSING or option.default == setting.default


def test_every_option_arrives(called):
    assert OTHERS.keys() == {setting.name for setting in fields(Settings)}
    own = {"out": "there", "checkpoint_seconds": 1.5, "samples": 4, "cpu": True}
    done = CliRunner().invoke(app, ["qlora", *words(OTHERS | own)])
    assert done.exit_code == 0, done.output
    ((settings, out, how),) = called
    assert settings == Settings(**OTHERS) and str(out) == own.pop("out") and how == own


def test_defaults_are_those_of_the_settings(called):
    CliRunner().invoke(app, ["qlora", "--model", "a", "--data", "b"])
    assert called[0][0] == Settings("a", "b")
