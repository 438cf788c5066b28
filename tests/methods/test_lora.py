"""What LoRA has of its own: how it starts, its formula, dropout, precision and refusals."""

import pytest
import torch

from helpers import loss, refuses, trained_numbers
from pefteach.methods import LoRA, attach, attached, detach
from pefteach.workshop.parity.families import make, make_batch


def test_starts_as_the_base_and_trains_b_first():
    model, batch = make("ours"), make_batch("ours")
    before = model(**batch).logits
    adapter = attach(model, LoRA(3, 7.0, ("q_proj", "v_proj")))
    assert torch.equal(model(**batch).logits, before)
    loss(model, batch).backward()
    for key, parameter in adapter.trained_tensors().items():
        if "lora_B" in key:
            assert parameter.grad.abs().max() > 0, "B cannot leave zero"
        else:
            assert parameter.abs().max() > 0 and parameter.grad.abs().max() == 0


def test_counts_what_the_formula_says(model):
    adapter = attach(model, LoRA(4, 8.0, ("q_proj", "v_proj")))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # L · Σ r (in + out): q is 64 -> 64, v is 64 -> 32
    assert trained == trained_numbers(adapter) == 2 * 4 * (64 + 64 + 64 + 32)


def test_dropout_only_touches_the_update():
    model, batch = make("ours"), make_batch("ours")
    adapter = attach(model, LoRA(3, 7.0, ("q_proj",), dropout=0.5))
    model.train()
    before = model(**batch).logits
    torch.testing.assert_close(before, model(**batch).logits)  # B is zero: the frozen path sees every input
    with torch.no_grad():
        for key, p in adapter.trained_tensors().items():
            if "lora_B" in key:
                p.normal_()
    assert not torch.allclose(model(**batch).logits, model(**batch).logits)
    model.eval()
    torch.testing.assert_close(model(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize(
    "method, message",
    [
        (LoRA(rank=0), "rank must be between 1 and 64"),
        (LoRA(rank=33, target_modules=["v_proj"]), "rank must be between 1 and 32 for model.layers.0.self_attn.v_proj"),
        (LoRA(alpha=0), "alpha must be above 0, not 0"),
        (LoRA(alpha=-4.0), "alpha must be above 0, not -4"),
        (LoRA(dropout=1.0), "dropout must be at least 0 and below 1"),
        (LoRA(target_modules=["v_prj"]), "no linear layer is called 'v_prj'; this model has: v_proj, "),
        (LoRA(target_modules="model.layers.[7].*"), "no linear layer is called"),
        (LoRA(target_modules=[]), "target_modules is empty"),
    ],
)
def test_refuses_wrong_settings_and_changes_nothing(model, method, message):
    refuses(model, method, message)


def test_all_linear_leaves_out_the_head(model):
    attach(model, LoRA(3, 7.0, "all-linear"))
    assert len(attached(model)["default"].parts) == 2 * 7
    detach(model)
    attach(model, LoRA(3, 7.0, r"model\.layers\.1\..*_proj"))
    assert len(attached(model)["default"].parts) == 7


def test_refuses_what_it_does_not_have_in_a_file_of_peft():
    config = LoRA(3, 7.0).to_peft()
    assert LoRA.from_peft(config | {"alpha_pattern": {}, "modules_to_save": None}) == LoRA(3, 7.0, ["q_proj", "v_proj"])
    for setting, value in [("alpha_pattern", {"q_proj": 2}), ("modules_to_save", ["lm_head"]), ("lora_bias", True)]:
        with pytest.raises(ValueError, match=f"this file's LoRA has {setting} = "):
            LoRA.from_peft(config | {setting: value})


def test_does_not_merge_into_a_weight_that_another_module_has_too():
    model = make("ours")  # its head is tied to the embedding
    adapter = attach(model, LoRA(3, 7.0, ["lm_head"]))
    with pytest.raises(ValueError, match="lm_head shares its weight with another module"):
        adapter.merge()
