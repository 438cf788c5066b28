"""Whole runs on the base that ships: alone, killed, in two processes, sharded; and everything that is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pefteach import train
from pefteach.paths import BASE, ROOT
from pefteach.qlora.instructions import encode_instruction
from pefteach.qlora.run import TRAINING, read, run
from pefteach.quant import quantise

CONFIG = ROOT / "pefteach" / "qlora" / "accelerate" / "cpu.yaml"
LAUNCH = ["-m", "accelerate.commands.launch", "--config_file", CONFIG, "--main_process_port", "0", "-m", "pefteach"]
SHARDED = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", ROOT / "tests/qlora/sharded.py"]


def start(*arguments):
    """A Python process of its own, on one thread."""
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], env=quiet, text=True, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def options(settings):
    """The same as a command line."""
    values = {
        key: value for key, value in asdict(settings).items() if not isinstance(value, bool) and value is not None
    }
    return [text for key, value in values.items() for text in (f"--{key.replace('_', '-')}", value)]


def result(out):
    return json.loads((out / "run.json").read_text())["result"]


def losses(out):
    return [row["loss"] for row in result(out)["history"]]


def same_adapter(one, two):
    """As a whole: AdamW makes a step of any gradient's sign, so where that is all but zero, rounding decides."""
    ours, theirs = (load_file(out / "adapter_model.safetensors") for out in (one, two))
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: t.shape for key, t in theirs.items()}
    ours, theirs = (torch.cat([tensors[key].flatten() for key in sorted(tensors)]) for tensors in (ours, theirs))
    assert (ours - theirs).norm() < 5e-3 * theirs.norm()


def test_a_run_learns_and_leaves_an_adapter_that_peft_opens(alone, settings):
    peft = pytest.importorskip("peft")
    found = result(alone)
    assert found["loss_after"] < 0.5 * found["loss_before"]
    assert [row["step"] for row in found["history"]] == list(range(len(found["history"]))) and found["history"]
    assert len(found["samples"]) == 2 and all(s["before"] != s["after"] for s in found["samples"])
    assert found["tokens_per_second"] > 0 and found["peak_bytes"] > 1e7
    names = ["adapter_config.json", "adapter_model.safetensors", "run.json"]
    assert sorted(file.name for file in alone.iterdir()) == names
    assert json.loads((alone / "adapter_config.json").read_text())["base_model_name_or_path"] == str(BASE)
    model = peft.PeftModel.from_pretrained(quantise(AutoModelForCausalLM.from_pretrained(BASE)), alone)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    examples = [encode_instruction(tokenizer, line) for line in read(settings)[1]]
    assert train.evaluate(model, examples).loss == pytest.approx(found["loss_after"], abs=1e-4)


def test_two_processes_are_one(alone, settings, tmp_path):
    """Half of each batch in each, with gradients averaged by DDP over gloo."""
    single = replace(settings, dropout=0.0)
    said = finish(start(*LAUNCH, "qlora", "--out", tmp_path, "--cpu", *options(single)))
    assert losses(tmp_path) == pytest.approx(losses(alone), abs=1e-5)
    assert result(tmp_path)["loss_after"] == pytest.approx(result(alone)["loss_after"], abs=1e-5)
    assert said.count("The adapter is in") == 1  # one of them talks
    same_adapter(tmp_path, alone)


def test_two_processes_that_share_the_weights_are_one(alone, settings, tmp_path):
    """FSDP2 of the 4-bit codes and of LoRA; the script asserts that they are sharded."""
    finish(start(*SHARDED, json.dumps(asdict(replace(settings, dropout=0.0))), tmp_path))
    assert losses(tmp_path) == pytest.approx(losses(alone), abs=1e-5)
    same_adapter(tmp_path, alone)


@pytest.mark.parametrize("wrong", ["each part counts alike", "all rows in every part", "gradients are summed"])
def test_parts_that_are_weighed_wrongly_would_be_noticed(alone, settings, tmp_path, monkeypatch, wrong):
    if wrong == "each part counts alike":
        monkeypatch.setattr(train, "_counted", len)
    elif wrong == "all rows in every part":
        monkeypatch.setattr(train.OneProcess, "shares", lambda self, batch, n: (dict(batch) for _ in range(n)))
    else:
        once = train.next_token_loss
        monkeypatch.setattr(train, "next_token_loss", lambda *a: once(*a) * 2)
    run(replace(settings, dropout=0.0), tmp_path, samples=0, cpu=True)
    assert losses(tmp_path) != pytest.approx(losses(alone), abs=1e-3)


def test_a_killed_run_goes_on_to_the_same_end(settings, tmp_path):
    """With dropout, which has to be drawn again as it would have been."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(settings, whole, samples=0, cpu=True)
    command = ["-m", "pefteach", "qlora", "--out", broken, "--cpu", "--samples", 0, "--checkpoint-seconds", 0]
    process = start(*command, *options(settings))
    while process.poll() is None and not (broken / TRAINING).exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (broken / TRAINING).exists(), "the run was over before it could be killed"
    with pytest.raises(ValueError, match="holds an interrupted run with another lr: choose another --out"):
        run(replace(settings, lr=1.0), broken, samples=0, cpu=True)
    finish(start(*command, *options(settings)))
    assert losses(broken) == pytest.approx(losses(whole), abs=1e-6)
    assert result(broken)["loss_after"] == pytest.approx(result(whole)["loss_after"], abs=1e-6)
    with pytest.raises(ValueError, match="holds a finished run: choose another folder"):
        run(settings, broken, cpu=True)


@pytest.mark.parametrize("change, message", [
    ({"model": "no/such/model"}, "cannot open the model no/such/model: "),
    ({"data": "no.jsonl"}, "there is no file no.jsonl"),
    ({"eval_data": "no.jsonl"}, "there is no file no.jsonl"),
    ({"kind": "int4"}, "kind must be 'nf4' or 'fp4', not 'int4'"),
    ({"backend": "gptq"}, "no back end is called 'gptq'"),
    ({"optimizer": "sgd"}, "no optimiser is called 'sgd'"),
    ({"schedule": "step"}, "unknown schedule 'step'"),
    ({"lora_dtype": "int8"}, "lora_dtype must be float32 or bfloat16, not 'int8'"),
    ({"rank": 0}, "rank must be between 1 and"),
    ({"length": 2}, "no example has at most 2 tokens: raise --length"),
    ({"batch_size": 500}, "which is no full batch: lower --batch-size"),
    ({"accumulate": 5}, "a batch of 4 rows cannot be shared by 1 processes in 5 parts each"),
    ({"epochs": 0.0}, "epochs must be above 0, not 0.0"),
    ({"eval_share": 1.5}, "eval_share must be between 0 and 1"),
])  # fmt: skip
def test_refusals(settings, tmp_path, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(replace(settings, **change), tmp_path, samples=0, cpu=True)


def test_a_loss_that_is_not_finite_is_one_sentence(settings, tmp_path):
    with pytest.raises(ValueError, match=r"the loss was .* at step \d+"):
        run(replace(settings, lr=1e30, clip=1e30), tmp_path, samples=0, cpu=True)


def test_long_examples_are_left_out_and_named(settings, tmp_path, capsys):
    run(replace(settings, length=8, batch_size=2, packing=False, epochs=0.1), tmp_path, samples=0, cpu=True)
    assert "examples of more than 8 tokens, the first in line" in capsys.readouterr().out


def test_evaluates_on_the_way(settings, tmp_path):
    run(replace(settings, eval_every=3, epochs=1.0), tmp_path, samples=0, cpu=True)
    found = result(tmp_path)
    assert [step for step, _ in found["evaluations"]] == list(range(3, len(found["history"]) + 1, 3))
    assert found["evaluations"][-1][1] < found["loss_before"]
