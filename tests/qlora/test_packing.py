"""Rows of several examples, which must not see each other."""

import random

import pytest
import torch

from pefteach.corpus.batches import IGNORE, Example, collate
from pefteach.model.loss import next_token_loss
from pefteach.qlora.packing import collate_rows, leaks, pack
from pefteach.training import evaluate
from pefteach.workshop.parity.families import make


def example(size, seed=0):
    ids = random.Random(seed * 100 + size).choices(range(3, 90), k=size)
    return Example(tuple(ids), tuple(i >= size // 3 for i in range(size)))


EXAMPLES = [example(size, seed) for seed, size in enumerate((9, 4, 7, 3, 12, 5, 3, 8))]


def test_rows_hold_every_example_once_and_little_else():
    rows = pack(EXAMPLES, 16)
    assert sorted(e.ids for row in rows for e in row) == sorted(e.ids for e in EXAMPLES)
    assert all(sum(len(e.ids) for e in row) <= 16 for row in rows)
    assert len(rows) == 4  # 51 tokens: no packing needs fewer rows
    assert pack(EXAMPLES, 16) == rows
    with pytest.raises(ValueError, match="an example of 12 tokens does not fit a row of 11"):
        pack(EXAMPLES, 11)


def test_a_thousand_rows_are_nearly_full():
    rng = random.Random(1)
    examples = [example(rng.randint(3, 40), seed) for seed in range(5000)]
    tokens = sum(len(e.ids) for e in examples)
    assert tokens / 64 <= len(pack(examples, 64)) < 1.01 * tokens / 64


def packed_loss(model, batch):
    batch = dict(batch)
    labels = batch.pop("labels")
    return next_token_loss(model(**batch, use_cache=False).logits, labels).item()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_packed_and_apart_are_the_same_loss(family):
    model = make(family)
    packed = collate_rows(pack(EXAMPLES, 20))
    assert (packed["position_ids"] == 0).sum(1).max() >= 2  # there are rows of several
    with torch.no_grad():
        together = packed_loss(model, packed)
        assert together == pytest.approx(evaluate(model, EXAMPLES).loss, abs=2e-5)
        # and this is what the usual mistakes would give
        unbroken = packed | {"position_ids": torch.arange(packed["input_ids"].shape[1]).expand_as(packed["input_ids"])}
        assert abs(packed_loss(model, unbroken) - together) > 1e-3, "examples that see each other go unnoticed"
        everything = packed | {"labels": packed["input_ids"]}
        assert abs(packed_loss(model, everything) - together) > 1e-3, "counting the prompts goes unnoticed"


def test_a_row_of_one_is_an_ordinary_batch():
    rows = [[e] for e in EXAMPLES]
    ours, plain = collate_rows(rows), collate(EXAMPLES)
    assert torch.equal(ours["input_ids"], plain["input_ids"])
    assert torch.equal(ours["labels"][:, 1:], plain["labels"][:, 1:])


def test_the_first_token_of_an_example_is_not_predicted_from_the_one_before():
    whole = Example((5, 6, 7), (True, True, True))
    labels = collate_rows([[whole, whole]])["labels"]
    assert labels.tolist() == [[IGNORE, 6, 7, IGNORE, 6, 7]]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_a_leak_is_noticed(family, monkeypatch):
    model = make(family).train()
    assert not leaks(model) and model.training
    forward = type(model).forward
    deaf = lambda self, input_ids, position_ids=None, **other: forward(self, input_ids=input_ids, **other)
    monkeypatch.setattr(type(model), "forward", deaf)
    assert leaks(model)
