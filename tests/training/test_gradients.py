"""A batch in parts, in one process or two, is the same batch."""

import copy

import pytest
import torch

from pefteach.corpus.batches import Example
from pefteach.methods import AdaLoRA, LoRA, attach
from pefteach.training import fit, gradients, loop
from pefteach.training.processes import OneProcess


class Both(OneProcess):
    """Two processes' work in one, one after the other: their gradients are averaged, their losses added."""

    count = 2

    def prepare(self, model, optimizer):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient: gradient / 2)
        return model

    def split_batch(self, batch, accumulate):
        for self.index in range(2):
            yield from super().split_batch(batch, accumulate)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("method", [LoRA(3, 7.0), AdaLoRA(4, 2, 7.0)])
def test_a_batch_in_parts_is_the_same_batch(model, method, accumulate, examples):
    """AdaLoRA adds a penalty to the loss, once."""

    def run(**how):
        twin = copy.deepcopy(model)
        torch.manual_seed(0)
        attach(twin, method)
        return fit(twin, examples, steps=12, lr=1e-2, batch_size=5, progress=None, **how).losses

    whole = run()
    assert run(accumulate=accumulate, processes=Both()) == pytest.approx(whole, rel=1e-4)
    assert run(accumulate=5) == pytest.approx(whole, rel=1e-4)
    with pytest.raises(ValueError, match="a batch of 5 rows cannot be shared by 1 processes in 6 parts each"):
        run(accumulate=6)


@pytest.mark.parametrize(
    "wrong", ["the penalty is added by each", "losses are averaged, too", "parts count by their rows"]
)
def test_parts_that_are_added_up_wrongly_are_noticed(model, wrong, monkeypatch, examples):
    right = loop.compute_gradients

    def backward(forward, batch, active, accumulate, processes):
        twice = wrong == "the penalty is added by each" and processes.count == 2
        mine = right(forward, batch, active * 2 if twice else active, accumulate, processes)
        return mine / processes.count if wrong == "losses are averaged, too" else mine

    once = gradients.next_token_loss
    if wrong == "parts count by their rows":
        monkeypatch.setattr(gradients, "next_token_loss", lambda *a, total_tokens: once(*a) * len(a[1]) / 5)
    monkeypatch.setattr(loop, "compute_gradients", backward)
    with pytest.raises(AssertionError):
        test_a_batch_in_parts_is_the_same_batch(model, AdaLoRA(4, 2, 7.0), 2, examples)


def test_a_part_without_anything_to_learn_is_no_part(model, examples):
    """A mean over none of its tokens would be NaN."""
    data = [examples[0], Example((5, 6, 7), (False,) * 3)]

    def run(accumulate):
        twin = copy.deepcopy(model)
        return fit(twin, data, steps=3, lr=1e-2, batch_size=2, accumulate=accumulate, progress=None).losses

    assert run(2) == pytest.approx(run(1), rel=1e-4)
