"""The training loop: what counts, what it keeps, and how it ends."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from helpers import randomise, snapshot
from pefteach.corpus.batches import IGNORE, Example, collate
from pefteach.methods import AdaLoRA, LoRA, attach
from pefteach.model.decoder import Config, Decoder
from pefteach.model.loss import next_token_loss
from pefteach.training import fit as train
from pefteach.training.fit import TrainingDiverged, batches_of, evaluate, fit, learning_rate
from pefteach.training.processes import OneProcess

DATA = [Example(tuple(range(3 + i, 10 + i + i % 3)), (False,) * 3 + (True,) * (4 + i % 3)) for i in range(10)]


def test_only_what_counts_counts():
    logits = torch.randn(2, 6, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[IGNORE, IGNORE, 4, 5, 6, IGNORE], [IGNORE, 7, 8, IGNORE, IGNORE, IGNORE]])
    pairs = [(0, 1, 4), (0, 2, 5), (0, 3, 6), (1, 0, 7), (1, 1, 8)]  # row, position that predicts, token
    expected = -sum(logits[b, t].log_softmax(-1)[v] for b, t, v in pairs) / 5
    assert next_token_loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    flat = lambda x, y: nn.functional.cross_entropy(x.flatten(0, 1), y.flatten(), ignore_index=IGNORE).item()
    assert flat(logits, labels) != pytest.approx(expected.item(), rel=1e-3), "the shift would go unnoticed"
    everything = labels.where(labels != IGNORE, torch.tensor(0))
    assert flat(logits[:, :-1], everything[:, 1:]) != pytest.approx(expected.item(), rel=1e-3)


def test_padding_changes_nothing(model):
    short, long = (
        Example((3, 4, 5, 6), (False, False, True, True)),
        Example(tuple(range(3, 12)), (False,) * 8 + (True,)),
    )
    alone = evaluate(model, [short])
    for side in ("right", "left"):
        batch = collate([short, long], side=side)
        labels = batch.pop("labels")
        labels[1] = IGNORE
        assert next_token_loss(model(**batch).logits, labels).item() == pytest.approx(alone.loss, abs=1e-5)


def test_evaluate_counts_by_hand(model):
    score = evaluate(model, DATA, batch_size=3)
    loss = hits = tokens = exact = 0
    for example in DATA:
        scores = model(torch.tensor([example.ids])).logits[0].log_softmax(-1)
        wrong = 0
        for t in range(1, len(example.ids)):
            if example.counts[t]:
                loss -= scores[t - 1, example.ids[t]].item()
                tokens += 1
                wrong += int(scores[t - 1].argmax()) != example.ids[t]
        hits, exact = hits - wrong, exact + (wrong == 0)
    assert score.loss == pytest.approx(loss / tokens, rel=1e-5)
    assert score.token_accuracy == pytest.approx(1 + hits / tokens)
    assert score.exact_match == exact / len(DATA)


def test_learns_and_knows_it(model):
    history = fit(model, DATA, steps=60, lr=3e-3, batch_size=5, metric=lambda m: evaluate(m, DATA).exact_match,
                  metric_every=5, target=1.0, progress=None)  # fmt: skip
    assert evaluate(model, DATA).exact_match == 1.0 and history.stopped.startswith("target 1.0 reached at step")
    assert len(history.rows) < 60 and history.metrics[-1] == (len(history.rows), 1.0)
    assert {"step", "loss", "lr", "grad_norm", "tokens", "seconds"} == history.rows[0].keys()


def test_same_seed_same_run(model):
    def run(seed):
        twin = copy.deepcopy(model)
        attach(twin, LoRA(3, 7.0, dropout=0.2))
        return fit(twin, DATA, steps=5, lr=1e-2, batch_size=4, seed=seed, progress=None).losses

    torch.manual_seed(0)
    first = run(1)
    torch.manual_seed(0)
    assert run(1) == first
    torch.manual_seed(0)
    assert run(2) != first


def test_every_example_once_a_round():
    batch = batches_of(DATA, 5, seed=0)
    seen = [int(i) for step in (0, 1) for i in batch(step)["input_ids"][:, 0]]
    assert sorted(seen) == [e.ids[0] for e in DATA]
    again = [int(i) for step in (2, 3) for i in batch(step)["input_ids"][:, 0]]
    assert sorted(again) == sorted(seen) and again != seen


def test_frozen_stays_and_gradients_are_clipped(model):
    stored = snapshot(model)
    attach(model, LoRA(3, 7.0))
    fit(model, DATA, steps=3, lr=1e-2, clip=1e-9, weight_decay=0.5, batch_size=4, progress=None)
    for key, value in model.state_dict().items():
        if "lora_" not in key:
            assert torch.equal(value, stored[key.replace("base_layer.", "")]), key


@pytest.mark.parametrize("schedule, last", [("constant", 1.0), ("linear", 0.1), ("cosine", 0.1)])
def test_schedules(schedule, last):
    rate = [learning_rate(s, 100, 2.0, schedule, 0.1) for s in range(101)]
    assert rate[0] == pytest.approx(0.2) and rate[9] == rate[10] == 2.0 and rate[100] == pytest.approx(2.0 * last)
    assert all(a >= b for a, b in pairwise(rate[10:]))


def test_a_diverging_run_keeps_the_last_good_snapshot(model):
    attach(model, LoRA(3, 7.0))
    good = []

    def data(step):
        good.append(snapshot(model))
        batch = collate(DATA)
        if step == 3:  # poison the frozen base: from now on the loss is not a number
            model.model.norm.weight.data.fill_(float("nan"))
        return batch

    with pytest.raises(
        TrainingDiverged, match="the loss was nan at step 3; the weights of the step before it"
    ) as error:
        fit(model, data, steps=9, lr=1e-2, progress=None)
    assert error.value.step == 3 and len(error.value.history.rows) == 3
    for key, value in model.state_dict().items():
        if "lora_" in key:
            assert torch.equal(value, good[2][key]) and not torch.equal(value, good[3][key])


def test_a_killed_run_goes_on_as_if_nothing_happened(model, tmp_path):
    file = tmp_path / "run.safetensors"
    settings = dict(steps=8, lr=1e-2, batch_size=4, schedule="cosine", progress=None, checkpoint_seconds=0.0)
    whole, broken = copy.deepcopy(model), copy.deepcopy(model)
    full = fit(whole, DATA, **settings)

    class Killed(Exception):
        pass

    asked = []

    def until(step):
        asked.append(step)
        if asked == [0, 1, 2, 3, 4, 5]:
            raise Killed
        return batches_of(DATA, 4, 0)(step)

    with pytest.raises(Killed):
        fit(broken, until, checkpoint=file, **settings)
    resumed = fit(copy.deepcopy(model), until, checkpoint=file, **settings)  # a new process knows only the file
    assert asked[6:] == [5, 6, 7]
    assert resumed.losses == full.losses and [row["step"] for row in resumed.rows] == list(range(8))


def test_checkpoints_of_another_run_are_refused(model, tmp_path):
    file = tmp_path / "run.safetensors"
    settings = dict(steps=2, lr=1e-2, batch_size=4, progress=None, checkpoint=file)
    fit(copy.deepcopy(model), DATA, **settings)
    attach(model, LoRA(3))
    with pytest.raises(ValueError, match="belongs to another model or method"):
        fit(model, DATA, **settings)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged or no training checkpoint"):
        fit(model, DATA, **settings)


def test_nothing_to_do_is_said_at_once(model):
    with pytest.raises(ValueError, match="data set is empty: there is nothing to train on"):
        fit(model, [], steps=1, lr=1e-3)
    with pytest.raises(ValueError, match="data set is empty: there is nothing to evaluate"):
        evaluate(model, [])
    with pytest.raises(ValueError, match="data set is empty"):
        collate([])
    with pytest.raises(ValueError, match="unknown schedule 'step'"):
        fit(model, DATA, steps=1, lr=1e-3, schedule="step")
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="attach a method before training"):
        fit(model, DATA, steps=1, lr=1e-3)


def test_works_on_hugging_face_models():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = randomise(GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64)))
    attach(model, LoRA(8, 16.0, ["c_attn", "c_fc", "c_proj"]))
    history = fit(model, DATA, steps=30, lr=3e-2, batch_size=5, progress=None)
    assert history.losses[-1] < history.losses[0] / 1.5


def test_long_examples_are_refused_by_the_model():
    model = Decoder(Config(vocab_size=96, hidden_size=64, intermediate_size=64, max_position_embeddings=16))
    with pytest.raises(ValueError, match="20 tokens are more than the 16 positions"):
        fit(model, [Example((5,) * 20, (True,) * 20)], steps=1, lr=1e-3, batch_size=1, progress=None)


class Both(OneProcess):
    """Two processes' work in one, one after the other: their gradients are averaged, their losses added."""

    count = 2

    def prepare(self, model, optimizer):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient: gradient / 2)
        return model

    def shares(self, batch, accumulate):
        for self.index in range(2):
            yield from super().shares(batch, accumulate)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("method", [LoRA(3, 7.0), AdaLoRA(4, 2, 7.0)])
def test_a_batch_in_parts_is_the_same_batch(model, method, accumulate):
    """AdaLoRA adds a penalty to the loss, once."""

    def run(**how):
        twin = copy.deepcopy(model)
        torch.manual_seed(0)
        attach(twin, method)
        return fit(twin, DATA, steps=12, lr=1e-2, batch_size=5, progress=None, **how).losses

    whole = run()
    assert run(accumulate=accumulate, processes=Both()) == pytest.approx(whole, rel=1e-4)
    assert run(accumulate=5) == pytest.approx(whole, rel=1e-4)
    with pytest.raises(ValueError, match="a batch of 5 rows cannot be shared by 1 processes in 6 parts each"):
        run(accumulate=6)


@pytest.mark.parametrize(
    "wrong", ["the penalty is added by each", "losses are averaged, too", "parts count by their rows"]
)
def test_parts_that_are_added_up_wrongly_are_noticed(model, wrong, monkeypatch):
    right = train._backward

    def backward(forward, batch, active, accumulate, processes):
        twice = wrong == "the penalty is added by each" and processes.count == 2
        mine = right(forward, batch, active * 2 if twice else active, accumulate, processes)
        return mine / processes.count if wrong == "losses are averaged, too" else mine

    once = train.next_token_loss
    if wrong == "parts count by their rows":
        monkeypatch.setattr(train, "next_token_loss", lambda *a, among: once(*a) * len(a[1]) / 5)
    monkeypatch.setattr(train, "_backward", backward)
    with pytest.raises(AssertionError):
        test_a_batch_in_parts_is_the_same_batch(model, AdaLoRA(4, 2, 7.0), 2)


def test_a_part_without_anything_to_learn_is_no_part(model):
    """A mean over none of its tokens would be NaN."""
    data = [DATA[0], Example((5, 6, 7), (False,) * 3)]

    def run(accumulate):
        twin = copy.deepcopy(model)
        return fit(twin, data, steps=3, lr=1e-2, batch_size=2, accumulate=accumulate, progress=None).losses

    assert run(2) == pytest.approx(run(1), rel=1e-4)


def test_a_run_that_reached_its_target_is_over(model, tmp_path):
    how = dict(
        steps=9, lr=1e-2, metric=lambda m: 1.0, metric_every=2, target=0.5, checkpoint=tmp_path / "run.safetensors"
    )
    first = fit(model, DATA, progress=None, **how)
    again = fit(model, DATA, progress=None, **how)
    assert len(first.rows) == len(again.rows) == 2 and again.stopped == "target 0.5 reached at step 2"


def test_a_measurement_is_stored_with_its_step(model, tmp_path):
    """Killed in the next step, the run has it."""

    def data(step):
        if step == 2 and not again:
            raise KeyboardInterrupt
        return batches_of(DATA, 4, 0)(step)

    how = dict(steps=4, lr=1e-2, metric=lambda m: 1.0, metric_every=2, checkpoint=tmp_path / "run.safetensors")
    again = False
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, checkpoint_seconds=0.0, progress=None, **how)
    again = True
    assert [step for step, _ in fit(model, data, progress=None, **how).metrics] == [2, 4]
