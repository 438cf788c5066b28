"""What counts as forgotten, and fingerprints that notice one bit."""

import pytest
import torch

import pefteach.measure.forgetting as forgetting
from pefteach.measure.forgetting import Knowledge, fingerprints, forgotten
from pefteach.methods import LoRA, activate, attach, detach


def test_an_examination_asks_the_models_own_examiners(monkeypatch):
    asked = {}

    def accuracy(model, tokenizer, count, seed):
        asked["skills"] = (model, tokenizer, count, seed)
        return {"copy": 1.0, "reverse": 0.5}

    def loss(model, tokenizer, split, count, seed):
        asked["stories"] = (split, count, seed)
        return {"loss": 1.25, "generator_bound": 1.0}

    monkeypatch.setattr(forgetting, "skill_accuracy", accuracy)
    monkeypatch.setattr(forgetting, "story_loss", loss)
    known = forgetting.examine("model", "tokenizer", problems=7, stories=3, seed=11)
    assert known == Knowledge({"copy": 1.0, "reverse": 0.5}, 1.25) and known.mean == 0.75
    assert asked == {"skills": ("model", "tokenizer", 7, 11), "stories": ("train", 3, 11)}


def test_forgetting_is_what_got_worse():
    before, after = Knowledge({"copy": 1.0, "swap": 0.5}, 1.0), Knowledge({"copy": 0.25, "swap": 0.75}, 1.5)
    assert forgotten(before, after) == Knowledge({"copy": 0.75, "swap": -0.25}, 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fingerprint_notices_one_changed_number(model, dtype):
    model.to(dtype)
    before = fingerprints(model)
    weight = model.model.layers[1].self_attn.k_proj.weight
    with torch.no_grad():
        weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(9.0, dtype=dtype))
    after = fingerprints(model)
    assert [name for name in before if before[name] != after[name]] == ["model.layers.1.self_attn.k_proj.weight"]


def test_fingerprints_are_the_bases_whatever_is_attached(model):
    before = fingerprints(model)
    attach(model, LoRA(rank=4))
    assert fingerprints(model) == before
    activate(model)
    detach(model)
    assert fingerprints(model) == before
