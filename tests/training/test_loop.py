"""The training loop: it learns, it repeats itself, and it touches nothing else."""

import copy

import pytest
import torch

from helpers import randomise, snapshot
from pefteach.corpus.batches import Example, collate
from pefteach.methods import LoRA, attach
from pefteach.model.decoder import Config, Decoder
from pefteach.training import evaluate, fit


def test_learns_and_knows_it(model, examples):
    history = fit(model, examples, steps=60, lr=3e-3, batch_size=5, metric=lambda m: evaluate(m, examples).exact_match,
                  metric_every=5, target=1.0, progress=None)  # fmt: skip
    assert evaluate(model, examples).exact_match == 1.0 and history.stopped.startswith("target 1.0 reached at step")
    assert len(history.rows) < 60 and history.metrics[-1] == (len(history.rows), 1.0)
    assert {"step", "loss", "lr", "grad_norm", "tokens", "seconds"} == history.rows[0].keys()


def test_same_seed_same_run(model, examples):
    def run(seed):
        twin = copy.deepcopy(model)
        attach(twin, LoRA(3, 7.0, dropout=0.2))
        return fit(twin, examples, steps=5, lr=1e-2, batch_size=4, seed=seed, progress=None).losses

    torch.manual_seed(0)
    first = run(1)
    torch.manual_seed(0)
    assert run(1) == first
    torch.manual_seed(0)
    assert run(2) != first


def test_frozen_stays_and_gradients_are_clipped(model, examples):
    stored = snapshot(model)
    attach(model, LoRA(3, 7.0))
    fit(model, examples, steps=3, lr=1e-2, clip=1e-9, weight_decay=0.5, batch_size=4, progress=None)
    for key, value in model.state_dict().items():
        if "lora_" not in key:
            assert torch.equal(value, stored[key.replace("base_layer.", "")]), key


def test_nothing_to_do_is_said_at_once(model, examples):
    with pytest.raises(ValueError, match="data set is empty: there is nothing to train on"):
        fit(model, [], steps=1, lr=1e-3)
    with pytest.raises(ValueError, match="data set is empty: there is nothing to evaluate"):
        evaluate(model, [])
    with pytest.raises(ValueError, match="data set is empty"):
        collate([])
    with pytest.raises(ValueError, match="unknown schedule 'step'"):
        fit(model, examples, steps=1, lr=1e-3, schedule="step")
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="attach a method before training"):
        fit(model, examples, steps=1, lr=1e-3)


def test_works_on_hugging_face_models(examples):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = randomise(GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64)))
    attach(model, LoRA(8, 16.0, ["c_attn", "c_fc", "c_proj"]))
    history = fit(model, examples, steps=30, lr=3e-2, batch_size=5, progress=None)
    assert history.losses[-1] < history.losses[0] / 1.5


def test_long_examples_are_refused_by_the_model():
    model = Decoder(Config(vocab_size=96, hidden_size=64, intermediate_size=64, max_position_embeddings=16))
    with pytest.raises(ValueError, match="20 tokens are more than the 16 positions"):
        fit(model, [Example((5,) * 20, (True,) * 20)], steps=1, lr=1e-3, batch_size=1, progress=None)
