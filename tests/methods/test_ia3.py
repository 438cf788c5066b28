"""What (IA)³ has of its own: which side each vector scales, what it may stand beside, its formula and refusals."""

import pytest
import torch
from torch.nn import functional as F

from helpers import model_with, refuses, train, trained_numbers
from pefteach.methods import IA3, LoRA, activate, attach
from pefteach.workshop.parity.compare import shake
from pefteach.workshop.parity.families import make


def test_scales_keys_values_and_the_inside_of_the_feed_forward_network():
    model = make("llama")
    tensors = attach(model, IA3()).trained_tensors()
    start = "base_model.model.model.layers.0."
    assert {k.removeprefix(start): tuple(t.shape) for k, t in tensors.items() if k.startswith(start)} == {
        "self_attn.k_proj.ia3_l": (32, 1),  # the key heads are half of the query heads
        "self_attn.v_proj.ia3_l": (32, 1),
        "mlp.down_proj.ia3_l": (1, 128),
    }
    shake(tensors)
    x, block = torch.randn(2, 5, 64), model.model.layers[0]
    mlp, keys = block.mlp, block.self_attn.k_proj.base_layer
    after_activation = F.silu(mlp.gate_proj(x)) * mlp.up_proj(x)
    scaled = tensors[start + "mlp.down_proj.ia3_l"] * after_activation
    torch.testing.assert_close(mlp(x), mlp.down_proj.base_layer(scaled))
    l_k = tensors[start + "self_attn.k_proj.ia3_l"][:, 0]
    torch.testing.assert_close(block.self_attn.k_proj(x), l_k * (x @ keys.weight.T + keys.bias))


def test_counts_what_the_formula_says():
    model, adapter = model_with(IA3(), "llama")
    # L · (d_k + d_v + d_ff)
    assert trained_numbers(adapter) == IA3().trained_parameters(model) == 2 * (32 + 32 + 128)


def test_merging_scales_rows_and_their_bias_or_columns():
    model, adapter = model_with(IA3(), "llama")
    layers = {path: model.get_submodule(path).base_layer for path in adapter.parts}
    before = {path: (layer.weight.clone(), layer.bias.clone()) for path, layer in layers.items()}
    adapter.merge()
    for path, layer in layers.items():
        (weight, bias), scale = before[path], adapter.parts[path].ia3_l
        torch.testing.assert_close(layer.weight, weight * scale)
        torch.testing.assert_close(layer.bias, bias if "down_proj" in path else bias * scale[:, 0])


def test_two_multiply_but_one_cannot_stand_beside_lora():
    model, x = make("llama"), torch.randn(2, 5, 64)
    keys = model.model.layers[0].self_attn.k_proj
    expected = keys(x)
    for name in ("one", "two"):
        adapter = attach(model, IA3(("k_proj",), ()), name)
        shake(adapter.trained_tensors(), seed=len(name) + (name == "two"))
        expected = expected * adapter.parts["model.layers.0.self_attn.k_proj"].ia3_l[:, 0]
    activate(model, "one", "two")
    torch.testing.assert_close(model.model.layers[0].self_attn.k_proj(x), expected)
    attach(model, LoRA(3, 7.0, ("k_proj",)), "lora")
    with pytest.raises(ValueError, match=r"'one' and 'lora' both change .*layers.0.self_attn.k_proj"):
        activate(model, "one", "lora")


def test_weight_decay_does_not_pull_it_to_zero():
    learned = []
    for decay in (0.0, 10.0):
        model, adapter = model_with(IA3(), shaken=False)
        train(model, steps=3, weight_decay=decay, batch_size=16)
        learned.append(adapter.trained_tensors())
    for key, tensor in learned[0].items():
        assert torch.equal(tensor, learned[1][key]), key


@pytest.mark.parametrize(
    "method, message",
    [
        (IA3(("k_proj",), ("down_proj",)), "feedforward_modules names model.layers.0.mlp.down_proj, but target_mod"),
        (IA3(("k_prj",), ()), "no linear layer is called 'k_prj'; this model has: k_proj, "),
        (IA3(("k_proj",), ("dwn_proj",)), "no linear layer is called 'dwn_proj'; this model has: down_proj, "),
        (IA3((), ()), "target_modules is empty"),
    ],
)
def test_refuses_wrong_settings_and_changes_nothing(method, message):
    refuses(make("ours"), method, message)


def test_says_what_another_family_has_instead():
    with pytest.raises(ValueError, match="no linear layer is called 'k_proj'; this model has: c_proj, "):
        attach(make("gpt2"), IA3())
