"""QLoRA where it is meant to run: on a GPU, with bitsandbytes. The same bodies run on a CPU, too."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from helpers import DEVICES, TINY
from pefteach.methods import LoRA, attach
from pefteach.model.decoder import Config, Decoder
from pefteach.paths import ROOT
from pefteach.qlora.run import run
from pefteach.training import checkpoint, fit
from pefteach.training.adamw import AdamW
from pefteach.training.checkpoint import Checkpoint
from pefteach.training.optimizers import optimizer_for
from pefteach.training.processes import Accelerated

bnb = pytest.importorskip("bitsandbytes")


@pytest.fixture
def accelerator():
    """Makes one for a device; accelerate keeps the first device of a process for ever."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield lambda device: Accelerator(cpu=device == "cpu")
    AcceleratorState._reset_state(reset_partial_state=True)


# --- bitsandbytes' AdamW --------------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path, accelerator):
    """A function that trains for some steps, from a checkpoint if there is one; losses and the optimiser."""

    def go(device, bits, steps, file):
        torch.manual_seed(0)
        model = Decoder(Config(**TINY | {"hidden_size": 512, "head_dim": 128, "num_hidden_layers": 1})).to(device)
        attach(model, LoRA(256, 32.0, ["q_proj", "k_proj"]))  # matrices of 131,072 and 65,536: paged from 100,000 on
        ids = torch.randint(3, 96, (4, 16), generator=torch.Generator().manual_seed(1))
        made = []

        def optimizer(groups, **settings):
            made.append(bnb.optim.AdamW(groups, **settings, optim_bits=bits, is_paged=True))
            return made[0]

        history = fit(
            model, lambda step: {"input_ids": ids, "labels": ids}, steps=steps, lr=1e-2, optimizer=optimizer,
            checkpoint=file and tmp_path / file, progress=None, processes=Accelerated(accelerator(device)),
        )  # fmt: skip
        return history.losses, made[0]

    return go


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", [8, 32])
def test_paged_adamw_goes_on_from_a_checkpoint(trained, device, bits, monkeypatch):
    straight, _ = trained(device, bits, 6, None)
    assert straight[-1] < 0.9 * straight[0]
    trained(device, bits, 3, "there")
    again, optimizer = trained(device, bits, 6, "there")
    assert again == pytest.approx(straight, abs=1e-6 if device == "cpu" else 1e-4)
    states = [state for state in optimizer.state.values() if state]
    assert {state["step"] for state in states} == {6}
    large = [state["state1"] for state in states if state["state1"].numel() >= 1e5]
    assert large and {s.dtype for s in large} == {torch.uint8 if bits == 8 else torch.float32}
    assert all(getattr(s, "is_paged", False) is (device == "cuda") for s in large)
    # Without its state the optimiser goes another way.
    trained(device, bits, 3, "lost")
    monkeypatch.setattr(checkpoint, "_restore", lambda *_: None)
    assert trained(device, bits, 6, "lost")[0] != pytest.approx(straight, abs=1e-4)


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_another_optimisers_checkpoint_is_refused(trained, tmp_path):
    trained("cpu", 32, 1, "there")
    with pytest.raises(ValueError, match=r"was written with another optimiser, bitsandbytes.*32 bits; remove it"):
        trained("cpu", 8, 2, "there")
    with pytest.raises(ValueError, match="was written with another optimiser"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(bnb.optim, "AdamW", lambda groups, optim_bits, is_paged, **kw: AdamW(groups, **kw))
        trained("cpu", 32, 2, "there")


@pytest.mark.parametrize("name, bits", [("paged-adamw-32bit", 32), ("paged-adamw-8bit", 8)])
def test_a_gpu_gets_paged_states_unless_they_are_sharded(name, bits):
    make_it, note = optimizer_for(name, torch.device("cuda"))
    optimizer = make_it([torch.nn.Parameter(torch.zeros(2))], lr=1.0)
    assert (type(optimizer), optimizer.is_paged, optimizer.args.optim_bits, note) == (bnb.optim.AdamW, True, bits, None)
    make_it, note = optimizer_for(name, torch.device("cuda"), sharded=True)
    assert make_it is AdamW and note.startswith(f"{name} cannot be sharded")


# --- whole runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", ["pefteach", "bitsandbytes"])
def test_a_run_that_stopped_goes_on(device, backend, settings, tmp_path, accelerator, monkeypatch):
    chosen, cpu = replace(settings, backend=backend), device == "cpu"
    whole = run(chosen, tmp_path / "whole", samples=1, cpu=cpu)
    assert whole["loss_after"] < 0.5 * whole["loss_before"]
    assert whole["device"] == (whole["device"] if cpu else torch.cuda.get_device_name()) and whole["peak_bytes"] > 0
    left, save = iter(range(3)), Checkpoint.save

    def save_then_stop(*arguments):
        save(*arguments)
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoint, "save", save_then_stop)
        run(chosen, tmp_path / "broken", samples=0, checkpoint_seconds=0, cpu=cpu)
    again = run(chosen, tmp_path / "broken", samples=0, cpu=cpu)
    loss = lambda result: [row["loss"] for row in result["history"]]
    assert loss(again) == pytest.approx(loss(whole), abs=1e-6 if cpu else 0.02)
    assert again["loss_after"] == pytest.approx(whole["loss_after"], abs=1e-6 if cpu else 0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("config", ["ddp", "fsdp"])
def test_two_gpus_are_one(config, settings, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    chosen = replace(settings, dropout=0.0, backend="pefteach", optimizer="adamw")
    files = SimpleNamespace(one=tmp_path / "one", two=tmp_path / "two")
    file = ROOT / "pefteach" / "qlora" / "accelerate" / f"{config}.yaml"
    launch = ["-m", "accelerate.commands.launch", "--config_file", file, "--main_process_port", "0", "-m", "pefteach"]
    skip = ("packing", "checkpointing", "eval_data")
    options = [w for k, v in vars(chosen).items() if k not in skip for w in (f"--{k.replace('_', '-')}", v)]
    for start, out in ((["-m", "pefteach"], files.one), (launch, files.two)):
        subprocess.run([sys.executable, *map(str, [*start, "qlora", "--out", out, *options])], check=True, cwd=ROOT)
    one, two = (json.loads((out / "run.json").read_text())["result"] for out in (files.one, files.two))
    assert [r["loss"] for r in two["history"]] == pytest.approx([r["loss"] for r in one["history"]], abs=0.05)
    assert two["loss_after"] == pytest.approx(one["loss_after"], abs=0.05)
