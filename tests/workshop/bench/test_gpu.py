"""``pefteach bench gpu`` on a processor: every line but those of CUDA itself, and the benches that would be unfair."""

import gc
import json
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pefteach.memory import LiveBytes
from pefteach.memory.llamas import llama
from pefteach.quant import quantise, quantise_4bit
from pefteach.quant.fast import fused
from pefteach.workshop import bench
from pefteach.workshop.bench import gpu as gpu_bench
from pefteach.workshop.bench.gpu import device, kernels, planning, report, training
from pefteach.workshop.machine import machine
from pefteach.workshop.rows import row

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")

SHAPE = llama(hidden=128, layers=1, inner=192, heads=4, kv_heads=2, vocab=96)


class Processor(device.Gpu):
    """A CPU in the place of a GPU. Its memory is what torch's operations made and nobody has freed yet."""

    def __init__(self):
        self.device, self.live, self.waits = torch.device("cpu"), LiveBytes(), 0

    def wait(self):
        self.waits += 1

    def held(self):
        return self.live.now

    def highest(self):
        return self.live.peak

    def forget(self):
        self.live.peak = self.live.now

    def recorded(self, call, times):
        return lambda: [call() for _ in range(times)]


@pytest.fixture
def processor():
    found = Processor()
    with found.live:
        yield found
    gc.collect()


@pytest.fixture
def ids():
    return torch.randint(SHAPE.vocab_size, (2, 24), generator=torch.Generator().manual_seed(0))


# --- training -------------------------------------------------------------------------------------------------------


def test_every_arm_trains_and_is_compared(processor, monkeypatch):
    checked = []
    monkeypatch.setattr(
        training, "check", lambda variants, check=training.check: checked.append((check(variants), variants))
    )
    rows = training.run(processor, "tiny", SHAPE, batch=2, length=24, rounds=1)
    assert [row["name"] for row in rows[:3]] == [
        f"tiny, 2 x 24 tokens, pefteach's layers, LoRA in float32: {what}" for what in ("step", "speed", "peak")
    ]
    assert len(rows) == 3 * len(training.OURS) == 12
    for step, speed, peak in zip(rows[::3], rows[1::3], rows[2::3]):
        assert step["bar"] == peak["bar"] == 1.0 and speed["bar"] is None
        assert speed["ours"] == pytest.approx(2 * 24 / step["ours"]) and speed["peer"] == pytest.approx(
            48 / step["peer"]
        )
        assert peak["ours"] > 0
    ((_, variants),) = checked
    assert all(variant.losses[-1] < variant.losses[0] for variant in variants.values())
    assert processor.waits >= 3 * len(variants)  # once per variant before, and after each step in two rounds


def test_peaks_are_of_one_arm_each(processor, ids, monkeypatch):
    """Built first or last, a variant has the same peak."""
    two = dict(list(training.OURS.items())[1:3])
    monkeypatch.setattr(training, "OURS", two)
    first = training.make_variants(processor, SHAPE, ids)
    monkeypatch.setattr(training, "OURS", dict(reversed(two.items())))
    last = training.make_variants(processor, SHAPE, ids)
    assert {key: variant.peak for key, variant in first.items()} == {key: variant.peak for key, variant in last.items()}


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"RANK": 32}, r"[\d,]+ parameters train, not [\d,]+, so there is nothing to compare"),
        ({"ALPHA": 32}, "the first losses are"),
        ({"LR": 1e-3}, "the first losses are"),
        ({"quant_type": "fp4"}, "the logits start .*% apart"),
        ({"seed": 1}, "the logits start .*% apart"),
        ({"frozen": True}, "parameters train, not"),
        ({"from": "another start"}, "the first losses are"),
    ],
)
def test_arms_that_do_other_work_are_not_timed(processor, ids, monkeypatch, wrong, message):
    """The peer goes wrong; the first of our variants notices."""
    monkeypatch.setattr(training, "OURS", dict(list(training.OURS.items())[:1]))
    right = training.theirs

    def theirs(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            for name in wrong.keys() & {"RANK", "ALPHA", "LR"}:
                patch.setattr(training, name, wrong[name])
            if "quant_type" in wrong:
                patch.setattr(training, "quantise", lambda *a, **k: quantise(*a, **k, quant_type="fp4"))
            if "seed" in wrong:
                patch.setattr(torch, "manual_seed", lambda seed, set=torch.manual_seed: set(seed + 1))
            if "from" in wrong:
                arguments = (*arguments[:3], {key: 3 * value for key, value in arguments[3].items()})
            if wrong.get("RANK"):
                arguments = (
                    *arguments[:3],
                    {k: v[:32] if "lora_A" in k else v[:, :32] for k, v in arguments[3].items()},
                )
            model, step = right(*arguments)
        if "frozen" in wrong:
            next(p for p in model.parameters() if p.requires_grad).requires_grad_(False)
        return model, step

    monkeypatch.setattr(training, "theirs", theirs)
    variants = training.make_variants(processor, SHAPE, ids)
    with pytest.raises(ValueError, match=message):
        training.check(variants)


# --- kernels --------------------------------------------------------------------------------------------------------


def test_kernels_are_timed_per_call(processor, monkeypatch):
    taken = {"dequantise": 5.0, "copy": 4.0, "product with 1 row": 2.0, "product with 16 rows": 3.0}
    taken |= {f"bitsandbytes {name}": 2 * seconds for name, seconds in taken.items() if name != "copy"}
    monkeypatch.setattr(
        kernels,
        "median_seconds",
        lambda variants, rounds: {name: (variants[name](), taken[name])[1] for name in variants},
    )
    monkeypatch.setattr(kernels, "CALLS", 10)
    *rows, traffic = kernels.run(processor, shape=(40, 128))
    assert [row["name"] for row in rows] == [
        f"{name}, NF4 of 40 x 128 in bf16, against bitsandbytes"
        for name in ("dequantise", "product with 1 row", "product with 16 rows")
    ]
    assert [(row["ours"], row["ratio"], row["bar"]) for row in rows] == [
        (pytest.approx(seconds * 1e5), pytest.approx(0.5), 1.0) for seconds in (5, 2, 3)
    ]
    read = 40 * 64 + 80 + 4 + 4  # codes, scales, the scale of the scales, their mean
    assert traffic["ours"] == pytest.approx((read + 2 * 40 * 128) / 0.5 / 1e9) and traffic["bar"] is None
    assert traffic["peer"] == pytest.approx(2 * 2 * 40 * 128 / 0.4 / 1e9)
    assert processor.waits == len(taken)


@pytest.mark.parametrize("name", ["dequantise", "product with 1 row", "product with 16 rows"])
@pytest.mark.parametrize("wrong", ["other shape", "nothing", "FP4"])
def test_kernels_with_other_results_are_not_timed(processor, monkeypatch, name, wrong):
    right = kernels.make_variants

    def make_variants(matrix, rows):
        variants = right(matrix, rows)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "quantise_4bit", lambda matrix, **_: quantise_4bit(matrix, "fp4"))
            others = {"FP4": right(matrix, rows)[name], "other shape": lambda: variants[name]()[..., :1]}
        return variants | {name: others.get(wrong, lambda: torch.zeros_like(variants[name]()))}

    monkeypatch.setattr(kernels, "make_variants", make_variants)
    with pytest.raises(ValueError, match=f"{name}: .* different results, so there is nothing to compare"):
        kernels.run(processor, rounds=1, shape=(40, 128))


# --- planning -------------------------------------------------------------------------------------------------------


def test_the_planner_is_compared_with_the_step_itself(processor, monkeypatch):
    """A processor's memory is followed as the rehearsal follows it, so all that is left is the 4-bit arithmetic."""
    monkeypatch.setitem(planning.RECIPES, "QLoRA", replace(planning.RECIPES["QLoRA"], optimizer="adamw"))
    rows = planning.run(processor, "tiny", SHAPE, batch=2, length=24)
    assert [row["name"].split(": ")[0] for row in rows] == ["tiny, 2 x 24 tokens, LoRA", "tiny, 2 x 24 tokens, QLoRA"]
    assert rows[0]["ours"] < 0.1 and rows[1]["ours"] < 5 and all(row["bar"] == 5.0 for row in rows)
    for miss in (1.06, 0.94):  # it misses in either direction
        monkeypatch.setattr(planning, "real", lambda *_: 1000)
        monkeypatch.setattr(planning, "predict", lambda *_, miss=miss: 1000 * miss)
        found = planning.run(processor, "tiny", SHAPE, batch=2)[0]
        assert found["ours"] == pytest.approx(6.0) and not found["holds"]


def test_what_is_paged_is_not_expected_in_the_gpus_memory(processor):
    """Of this shape, the trained matrices of the MLP's wide side alone have the 100,000 numbers that are paged."""
    shape = llama(hidden=1024, layers=1, inner=2048, heads=8, kv_heads=8, vocab=96)
    there = planning.predict(processor, shape, planning.RECIPES["QLoRA"], 1, 24)
    processor.device = torch.device("cuda")
    assert there - planning.predict(processor, shape, planning.RECIPES["QLoRA"], 1, 24) == 8 * 3 * training.RANK * 2048


# --- the command ----------------------------------------------------------------------------------------------------


def test_without_a_gpu_it_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a CUDA device, and this machine has none that torch can use"):
        bench.print_bench("gpu", json=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(fused, "available", lambda device: False)
    with pytest.raises(ValueError, match="needs Triton and a GPU of compute capability"):
        bench.print_bench("gpu", json=False)


@pytest.fixture
def parts(monkeypatch, tmp_path):
    """The command without what it measures; the calls it makes."""
    called = []

    def part(name):
        return lambda gpu, *given, **named: called.append((name, *given)) or [row(name, "s", 1.0, 1.0, 2.0)]

    for module in (kernels, training, planning):
        monkeypatch.setattr(module, "run", part(module.__name__.rpartition(".")[2]))
    monkeypatch.setattr(gpu_bench, "Gpu", Processor)
    monkeypatch.setattr(report, "DOC", tmp_path / "gpu.md")
    return called


def test_the_command_measures_both_sizes_and_writes(parts, capsys):
    bench.print_bench("gpu", json=True)
    assert not report.DOC.exists()
    said = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in said["rows"]] == ["kernels", *["training", "planning"] * 2]
    assert [call[1] for call in parts if call[0] == "training"] == list(gpu_bench.ROWS)
    bench.print_bench("gpu", json=False, write=True)
    text = report.DOC.read_text()
    assert text.count("| 1 s | 2 s | 0.500 | 1 | yes |") == 5
    assert "Measured on 2" in text and "torch " in text and "No GPU has run it yet" not in text
    with pytest.raises(ValueError, match="`pefteach bench start` writes no file"):
        bench.print_bench("start", json=False, write=True)


def test_too_little_memory_is_one_sentence(parts, monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training, "run", full)
    with pytest.raises(ValueError, match="needs a GPU with 40 GB of free memory"):
        bench.print_bench("gpu", json=False, write=True)
    assert not report.DOC.exists()


def test_the_document_has_figures_or_says_that_there_are_none():
    text = report.DOC.read_text()
    if "Measured on" not in text:
        assert text == report.document([]), "write document([]) into it"


@pytest.mark.parametrize("smi, driver", [("570.12\n", "570.12"), ("", "unknown"), (None, "unknown")])
def test_figures_come_with_the_gpu_and_its_driver(monkeypatch, smi, driver):
    def run(command, **_):
        if smi is None:
            raise FileNotFoundError(command[0])
        return SimpleNamespace(stdout=smi)

    card = SimpleNamespace(name="Some GPU", total_memory=48 * 2**30)
    assert "gpu" not in machine() or torch.cuda.is_available()
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    facts = machine()
    assert facts["gpu"] == "Some GPU with 48 GiB" and facts["driver"] == driver and {"cuda", "triton"} <= facts.keys()
