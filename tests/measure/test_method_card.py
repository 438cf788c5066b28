"""The card of a method says what counting by hand says, and leaves the model alone."""

import pytest
import torch

from helpers import same, snapshot
from pefteach.measure.method_card import measure_method
from pefteach.methods import BitFit, FullFineTuning, LoRA, attach
from pefteach.workshop.parity.families import make


@pytest.fixture
def labelled():
    ids = torch.randint(3, 96, (2, 8), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def test_of_lora(labelled):
    model = make("ours")
    before = snapshot(model)
    card = measure_method(model, LoRA(4, 8.0, ["q_proj", "v_proj"]), labelled)
    # Per layer: q is 64 -> 64, v is 64 -> 32, and a token costs 2 operations per weight.
    numbers = 2 * 4 * (64 + 64 + 64 + 32)
    assert card.trained == card.by_formula == numbers and card.stored == 4 * numbers
    assert card.flops - card.base_flops == pytest.approx(2 * numbers)
    assert card.merges and card.extra_tokens == 0
    assert ("model.layers.*.self_attn.v_proj.lora_B.weight", (32, 4), 2) in card.tensors
    assert 0 < card.kept < card.kept_in_full
    assert "1,792 of" in str(card) and "| formula | Σ r (in + out) = 1,792 |" in card._repr_markdown_()
    assert same(model, before)


def test_of_what_changes_tensors_in_place(labelled):
    model = make("ours")
    full, biases = (measure_method(model, method, labelled) for method in (FullFineTuning(), BitFit()))
    assert full.kept == full.kept_in_full > biases.kept and full.trained == full.total
    assert biases.flops == biases.base_flops and not biases.merges


def test_refuses_a_model_that_is_not_bare(labelled):
    model = make("ours")
    attach(model, LoRA(4), "mine")
    with pytest.raises(ValueError, match="detach mine first"):
        measure_method(model, LoRA(4), labelled)
