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

from pefteach.paths import BASE, ROOT
from pefteach.qlora.data import read
from pefteach.qlora.folder import TRAINING
from pefteach.qlora.instructions import encode_instruction
from pefteach.qlora.run import run
from pefteach.quant import quantise
from pefteach.training import evaluate, gradients
from pefteach.training.processes import OneProcess

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
    assert evaluate(model, examples).loss == pytest.approx(found["loss_after"], abs=1e-4)


def test_two_processes_are_one(alone, settings, tmp_path):
    """Half of each batch in each, with gradients averaged by DDP over gloo."""
    single = replace(settings, dropout=0.0)
    said = finish(start(*LAUNCH, "qlora", "--out", tmp_path, "--cpu", *options(single)))
    assert losses(tmp_path) == pytest.approx(losses(alone), abs=1e-5)
    assert result(tmp_path)["loss_after"] == pytest.approx(result(alone)["loss_after"], abs=1e-5)
    assert said.count("The adapter is in") == 1  # one of them talks
    assert result(tmp_path)["processes"] == 2 and result(alone)["processes"] == 1
    same_adapter(tmp_path, alone)


def test_two_processes_that_share_the_weights_are_one(alone, settings, tmp_path):
    """FSDP2 of the 4-bit codes and of LoRA; the script asserts that they are sharded."""
    finish(start(*SHARDED, json.dumps(asdict(replace(settings, dropout=0.0))), tmp_path))
    assert losses(tmp_path) == pytest.approx(losses(alone), abs=1e-5)
    same_adapter(tmp_path, alone)


@pytest.mark.parametrize("wrong", ["parts count by their rows", "all rows in every part", "gradients are summed"])
def test_parts_that_are_weighed_wrongly_would_be_noticed(alone, settings, tmp_path, monkeypatch, wrong):
    once = gradients.next_token_loss
    if wrong == "parts count by their rows":
        monkeypatch.setattr(
            gradients, "next_token_loss", lambda *a, total_tokens: once(*a) * len(a[1]) / settings.batch_size
        )
    elif wrong == "all rows in every part":
        monkeypatch.setattr(OneProcess, "split_batch", lambda self, batch, n: (dict(batch) for _ in range(n)))
    else:
        monkeypatch.setattr(gradients, "next_token_loss", lambda *a, total_tokens: once(*a, total_tokens) * 2)
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
    ({"model": "no/such/model"}, "cannot open the model no/such/model: no such folder, and not on the hub"),
    ({"model": "tests"}, "cannot open the model tests: .{1,200}$"),
    ({"data": "no.jsonl"}, "there is no file no.jsonl"),
    ({"eval_data": "no.jsonl"}, "there is no file no.jsonl"),
    ({"quant_type": "int4"}, "quant_type must be one of nf4, fp4, not 'int4'"),
    ({"backend": "gptq"}, "backend must be one of auto, pefteach, bitsandbytes, not 'gptq'"),
    ({"optimizer": "sgd"}, "optimizer must be one of adamw, .*, not 'sgd'"),
    ({"schedule": "step"}, "schedule must be one of constant, linear, cosine, not 'step'"),
    ({"lora_dtype": "int8"}, "lora_dtype must be one of float32, bfloat16, not 'int8'"),
    ({"rank": 0}, "rank must be above 0, not 0"),
    ({"rank": 4000}, "rank must be between 1 and"),
    ({"length": 2}, "no example has at most 2 tokens: raise --length"),
    ({"length": 4096}, "reads 512 tokens at most: lower --length from 4096"),
    ({"batch_size": 500}, "rows, less than a batch: lower --batch-size"),
    ({"accumulate": 5}, "accumulate must be at most the batch_size of 4, not 5"),
    ({"epochs": 0.0}, "epochs must be above 0, not 0.0"),
    ({"epochs": float("inf")}, "epochs must be above 0, not inf"),
    ({"lr": float("nan")}, "lr must be above 0, not nan"),
    ({"eval_share": 1.5}, "eval_share must be at least 0 and below 1"),
    ({"eval_every": -3}, "eval_every must be at least 0"),
])  # fmt: skip
def test_refusals(settings, tmp_path, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(replace(settings, **change), tmp_path, samples=0, cpu=True)


def test_another_adapter_is_not_written_over(settings, tmp_path):
    (tmp_path / "adapter_model.safetensors").write_text("precious")
    with pytest.raises(ValueError, match="holds an adapter that no run here made: choose another folder"):
        run(settings, tmp_path, cpu=True)
    assert (tmp_path / "adapter_model.safetensors").read_text() == "precious"


def test_wrong_settings_leave_the_folder_free(settings, tmp_path):
    with pytest.raises(ValueError, match="rank must be between"):
        run(replace(settings, rank=4000), tmp_path, cpu=True)
    run(replace(settings, epochs=0.2), tmp_path, samples=0, cpu=True)


def test_a_loss_that_is_not_finite_is_one_sentence(settings, tmp_path):
    with pytest.raises(ValueError, match=r"the (loss was|gradient was not) .* at step \d+"):
        run(replace(settings, lr=1e30, clip=1e30), tmp_path, samples=0, cpu=True)


def test_long_examples_are_left_out_and_named(settings, tmp_path, capsys):
    run(replace(settings, length=8, batch_size=2, packing=False, epochs=0.1), tmp_path, samples=0, cpu=True)
    assert "examples of more than 8 tokens, the first in line" in capsys.readouterr().out


def test_evaluates_on_the_way(settings, tmp_path):
    run(replace(settings, eval_every=3, epochs=1.0), tmp_path, samples=0, cpu=True)
    found = result(tmp_path)
    assert [step for step, _ in found["evaluations"]] == list(range(3, len(found["history"]) + 1, 3))
    assert found["evaluations"][-1][1] < found["loss_before"]
