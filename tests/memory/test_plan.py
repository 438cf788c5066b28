"""``pefteach plan``: what it prints, and one clear sentence for what it cannot do."""

import json
from functools import partial

import pytest
import transformers
from typer.testing import CliRunner

from helpers import TINY
from pefteach.commands.cli import app
from pefteach.memory.count import Bytes
from pefteach.memory.plan import Plan, find_config, find_method, make_plan
from pefteach.memory.rehearse import rehearse_step
from pefteach.methods import AdaLoRA, LastLayers, LoRA, PrefixTuning
from pefteach.methods.qlora import prepare_qlora


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers.LlamaConfig(**TINY).save_pretrained(tmp_path)
    return str(tmp_path)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_table_and_the_json_are_the_rehearsal(folder):
    asked = ["--model", folder, "--method", "LoRA", "--set", "rank=4", "--batch", "3", "--length", "16"]
    expected = rehearse_step(transformers.LlamaConfig(**TINY), LoRA(4), 3, 16)
    printed = json.loads(run(*asked, "--json"))
    assert printed["bytes"] == vars(expected) and printed["fits"]["8"] and printed["precision"] == "bf16"
    text = run(*asked)
    assert f"{expected.peak / 2**30:.3f}" in text and "fits 80 GB" in text and "keeps a copy" in text


def test_every_option_counts(folder):
    asked = ["--model", folder, "--set", "rank=32", "--set", "target_modules=all-linear", "--length", "64", "--json"]
    planned = lambda *more: json.loads(run(*asked, *more))["bytes"]
    usual = planned()
    assert planned("--precision", "nf4")["weights"] < usual["weights"] < planned("--precision", "fp32")["weights"]
    assert planned("--checkpointing")["activations"] < usual["activations"] < planned("--batch", "2")["activations"]
    assert planned("--optimizer", "adamw-8bit")["optimizer"] < usual["optimizer"]


def test_qlora_is_in_four_bits(folder):
    asked = ["--model", folder, "--set", "rank=4", "--length", "16", "--json"]
    four, sixteen = (json.loads(run(*asked, "--method", method)) for method in ("qlora", "lora"))
    assert four["precision"] == "nf4" and four["bytes"]["weights"] < sixteen["bytes"]["weights"]
    assert four["bytes"]["gradients"] > sixteen["bytes"]["gradients"]  # on all layers, and not on q and v alone


def test_a_known_shape_takes_rows_of_any_length():
    assert find_config("Llama-2-7B", 9000).max_position_embeddings == 9000
    assert find_config("Llama-2-7B", 9000).num_hidden_layers == 32


def test_a_name_that_the_hub_does_not_give_is_one_sentence(monkeypatch):
    def no_network(name):
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", no_network)
    with pytest.raises(ValueError, match=r"^no model 'no/such': the hub does not give it, and the shapes .*70B$"):
        find_config("no/such", 8)


def test_what_fits_is_decided_by_the_peak():
    plan = Plan("m", "lora", [], 1, 8, "bf16", False, "adamw", Bytes(0, 0, 0, 0, peak=16 * 10**9))
    assert plan.fits() == {8: False, 12: False, 16: True, 24: True, 48: True, 80: True}


@pytest.mark.parametrize(
    ("name", "settings", "method"),
    [
        ("lora", [], LoRA()),
        (
            "LoRA",
            ["rank=4", "alpha=2.5", "target_modules=all-linear", "rslora=true"],
            LoRA(4, 2.5, "all-linear", 0, True),
        ),
        ("lora", ["target_modules=q_proj"], LoRA(target_modules=["q_proj"])),
        (
            "adalora",
            ["target_modules=q_proj,v_proj", "warmup=0"],
            AdaLoRA(target_modules=["q_proj", "v_proj"], warmup=0),
        ),
        ("lastlayers", ["count=2"], LastLayers(2)),
        ("prefixtuning", ["encoder_hidden_size=null"], PrefixTuning(encoder_hidden_size=None)),
    ],
    ids=str,
)
def test_settings_are_read(name, settings, method):
    assert find_method(name, settings) == method


def test_settings_of_qlora_are_read():
    found = find_method("qlora", ["rank=4", "dropout=0.1"])
    assert isinstance(found, partial) and found.func is prepare_qlora and found.keywords == {"rank": 4, "dropout": 0.1}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(model="tests"), "no model 'tests': its config.json cannot be read"),
        (dict(method="sft"), "no method is called 'sft': choose one of fullfinetuning, "),
        (dict(settings=["rank"]), "a setting is name=value, such as rank=16, not 'rank'"),
        (dict(settings=["size=3"]), "lora has no setting 'size': it has rank, alpha, "),
        (dict(settings=["rank=big"]), "rank takes int, not 'big'"),
        (dict(settings=["rslora=1"]), "rslora takes bool, not '1'"),
        (
            dict(method="prefixtuning", settings=["encoder_hidden_size=2,3"]),
            "encoder_hidden_size takes int | None, not '2,3'",
        ),
        (dict(precision="int8"), "unknown precision 'int8'"),
        (dict(length=65), "longer than the 64 positions"),
        (dict(settings=["rank=65"]), "rank must be between 1 and 64"),
    ],
    ids=str,
)
def test_what_cannot_be_planned_is_one_sentence(folder, wrong, message):
    usual = dict(model=folder, method="lora", settings=[], batch=2, length=16, precision=None, checkpointing=False)
    with pytest.raises(ValueError) as error:
        make_plan(**usual | wrong)
    assert message in str(error.value) and "\n" not in str(error.value)
