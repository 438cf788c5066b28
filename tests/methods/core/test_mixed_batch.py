"""Rows with adapters of their own: each row is what it is alone, and afterwards everything is as it was."""

import pytest
import torch

from helpers import logits
from pefteach.methods import (
    IA3,
    AdaLoRA,
    BitFit,
    DoRA,
    LoRA,
    PfeifferAdapters,
    PromptTuning,
    activate,
    attach,
    attached,
)
from pefteach.methods.core.mixed_batch import RowByRow, mixed_batch
from pefteach.methods.core.technique import DECODERS
from pefteach.model.generation import generate
from pefteach.workshop.parity.cases import KEYS_VALUES_FFN, TARGETS
from pefteach.workshop.parity.compare import shake
from pefteach.workshop.parity.families import make, make_batch

ROWS = ("adalora", None, "dora", "lora", "ia3", "lora", "dora")  # None between them, some twice, not in order


def served(family):
    """A model with one adapter of every kind that rows can choose, on different layers of different shapes."""
    model = make(family)
    methods = {
        "lora": LoRA(3, 7.0, TARGETS[family]),
        "dora": DoRA(2, 5.0, TARGETS[family][:1]),
        "ia3": IA3(*KEYS_VALUES_FFN[family]),
        "adalora": AdaLoRA(5, 2, 7.0, TARGETS[family][1:]),
    }
    for seed, (name, method) in enumerate(methods.items()):
        shake(attach(model, method, name).trained_tensors(), seed)
    return model


def alone(model, batch, name):
    """The logits of a batch of which every row has this adapter."""
    activate(model, *[name] * (name is not None))
    return logits(model, batch)


def every_row_is_what_it_is_alone(family):
    model, batch = served(family), make_batch(family, rows=len(ROWS))
    expected = [alone(model, batch, name)[i] for i, name in enumerate(ROWS)]
    for i, one in enumerate(expected):
        assert all(i == j or not torch.allclose(one, other, atol=1e-2) for j, other in enumerate(expected))
    activate(model, "ia3")  # which one is active does not matter
    with mixed_batch(model, ROWS):
        mixed = logits(model, batch)
    for i, one in enumerate(expected):
        torch.testing.assert_close(mixed[i], one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", TARGETS)
def test_every_row_is_what_it_is_alone(family):
    every_row_is_what_it_is_alone(family)


RIGHT = RowByRow.forward


def shifted(self, call, x):
    self.rows = self.rows[1:] + self.rows[:1]
    return RIGHT(self, call, x)


def leaks(self, call, x):
    """The adapter of the last row acts on all rows."""
    last = self.parts.get(self.rows[-1])
    return call(x) if last is None else last(call, x)


def in_order_of_names(self, call, x):
    """The rows are grouped by adapter, and never put back."""
    rows = self.rows
    return RIGHT(self, call, x)[[i for name in dict.fromkeys(rows) for i, row in enumerate(rows) if row == name]]


def never_reads_the_changed_input(self, call, x):
    """A part's changed input is ignored: (IA)³ on an input does nothing."""
    rows = zip(self.rows, x.split(1), call(x).split(1))
    return torch.cat([self.parts[name](lambda z, y=y: y, own) if name in self.parts else y for name, own, y in rows])


WRONG = [shifted, leaks, in_order_of_names, never_reads_the_changed_input]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_sees_a_wrong_version(monkeypatch, wrong):
    monkeypatch.setattr(RowByRow, "forward", wrong)
    with pytest.raises(AssertionError):
        every_row_is_what_it_is_alone("llama")


@pytest.mark.parametrize("family", DECODERS)
def test_generates_for_every_row_what_it_would_alone(family):
    model, batch = served(family), make_batch(family, rows=len(ROWS))
    ids = batch["input_ids"]
    with mixed_batch(model, ROWS):
        mixed = generate(model, ids, 5)
        assert torch.equal(mixed, generate(model, ids, 5, use_cache=False))
    for i, name in enumerate(ROWS):
        activate(model, *[name] * (name is not None))
        assert torch.equal(mixed[i : i + 1], generate(model, ids[i : i + 1], 5)), name


def test_afterwards_everything_is_as_before():
    model, batch = served("ours"), make_batch("ours", rows=len(ROWS))
    biases = attach(model, BitFit(), "biases")
    shake(biases.trained_tensors())
    shake(attach(model, PromptTuning(4), "prompt").trained_tensors())
    expected = [alone(model, batch, name)[i] for i, name in enumerate(ROWS)]
    for names in ([], ["biases"], ["prompt", "dora"], ["lora", "adalora"], ["adalora", "lora"]):
        activate(model, *names)
        before = model(**batch).logits
        trainable = [p.requires_grad for p in model.parameters()]
        with mixed_batch(model, ROWS):
            mixed = model(**batch).logits
        for i, one in enumerate(expected):
            torch.testing.assert_close(mixed[i], one, atol=1e-5, rtol=1e-5)
        assert {name for name, adapter in attached(model).items() if adapter.active} == set(names)
        assert torch.equal(model(**batch).logits, before)
        assert [p.requires_grad for p in model.parameters()] == trainable


def test_a_merged_adapter_comes_apart_inside_and_is_merged_afterwards():
    model, batch = served("ours"), make_batch("ours", rows=2)
    expected = [alone(model, batch, name)[i] for i, name in enumerate([None, "lora"])]
    activate(model, "lora")
    attached(model)["lora"].merge()
    before = model(**batch).logits
    with mixed_batch(model, [None, "lora"]):
        mixed = model(**batch).logits
    for i, one in enumerate(expected):
        torch.testing.assert_close(mixed[i], one, atol=1e-5, rtol=1e-5)
    assert attached(model)["lora"].merged and torch.equal(model(**batch).logits, before)


def test_one_inside_another_counts_while_it_lasts():
    model, batch = served("ours"), make_batch("ours", rows=2)
    with mixed_batch(model, ["lora", "dora"]):
        outer = model(**batch).logits
        with mixed_batch(model, ["ia3", None]):
            inner = model(**batch).logits
        assert torch.equal(model(**batch).logits, outer)
    torch.testing.assert_close(inner[0], alone(model, batch, "ia3")[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(inner[1], alone(model, batch, None)[1], atol=1e-5, rtol=1e-5)


def test_refuses_what_rows_cannot_choose():
    model, batch = served("ours"), make_batch("ours")
    attach(model, BitFit(), "biases")
    attach(model, PfeifferAdapters(4), "bottleneck")
    attach(model, PromptTuning(4), "prompt")
    before = model(**batch).logits
    for name in ("biases", "bottleneck", "prompt"):
        with (
            pytest.raises(ValueError, match=f"adapter '{name}' cannot be chosen per row"),
            mixed_batch(model, ["lora", name, None]),
        ):
            pass
    with pytest.raises(ValueError, match="no adapter named 'x' here"), mixed_batch(model, ["lora", "x", None]):
        pass
    for names in (["lora"], ["lora", None, "dora", "ia3"]):
        message = f"the batch has 3 rows, but mixed_batch was given {len(names)} names"
        with pytest.raises(ValueError, match=message), mixed_batch(model, names):
            model(**batch)
    assert torch.equal(model(**batch).logits, before), "an error inside leaves something behind"
