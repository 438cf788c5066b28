"""What DoRA has of its own: the row lengths, the detached norm, the dropout form, what it cannot stand beside."""

import json

import pytest
import torch

from helpers import model_with, real, trained_numbers
from pefteach.interop import load_adapter, save_adapter
from pefteach.methods import DoRA, LoRA, activate, attach, attached
from pefteach.workshop.parity.cases import ParityCase
from pefteach.workshop.parity.compare import pair, shake
from pefteach.workshop.parity.families import make, make_batch

TARGETS = ("q_proj", "v_proj", "down_proj")


def test_m_starts_as_the_row_norms_and_stays_the_row_norms():
    model = make("llama")
    adapter = attach(model, DoRA(3, 7.0, TARGETS))
    for path, part in adapter.parts.items():
        weight = model.get_submodule(path).base_layer.weight
        torch.testing.assert_close(part.lora_magnitude_vector, weight.norm(dim=1))
    shake(adapter.trained_tensors())
    adapter.merge()
    for path, part in adapter.parts.items():
        weight = model.get_submodule(path).base_layer.weight
        torch.testing.assert_close(weight.norm(dim=1), part.lora_magnitude_vector.abs())


def test_the_gradient_takes_the_norm_for_a_constant():
    model, adapter = model_with(DoRA(3, 7.0, ("v_proj",)), "llama")
    x = torch.randn(2, 5, 64)
    path, part = next(iter(adapter.parts.items()))
    layer, A, B, m = (
        model.get_submodule(path).base_layer,
        part.lora_A.weight,
        part.lora_B.weight,
        part.lora_magnitude_vector,
    )
    model.get_submodule(path)(x).square().sum().backward()
    measured = [p.grad.clone() for p in (A, B, m)]
    direction = layer.weight + 7.0 / 3 * B @ A
    for norm, same in ((direction.norm(dim=1).detach(), True), (direction.norm(dim=1), False)):
        y = x @ ((m / norm)[:, None] * direction).T + layer.bias
        expected = torch.autograd.grad(y.square().sum(), (A, B, m), retain_graph=True)
        assert torch.allclose(measured[2], expected[2], rtol=1e-4)
        assert torch.allclose(measured[1], expected[1], rtol=1e-4, atol=1e-4) == same
        assert torch.allclose(measured[0], expected[0], rtol=1e-4, atol=1e-4) == same


@pytest.mark.parametrize("rslora", [False, True])
def test_with_dropout_it_is_what_peft_computes(rslora):
    """W0 x + b + (m/n - 1) W0 x' + (m/n) s B A x', where x' is x with numbers dropped."""
    ours, _, reference = pair(ParityCase({"llama": DoRA(3, 7.0, TARGETS, dropout=0.4, rslora=rslora)}), "llama")
    batch = make_batch("llama")
    answers = []
    for model in (ours, reference.model):
        torch.manual_seed(2)
        answers.append(model.train()(**batch).logits)
    torch.testing.assert_close(real(answers[0], batch), real(answers[1], batch), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(answers[0], ours.eval()(**batch).logits, atol=1e-2), "nothing was dropped"


def test_dropout_leaves_a_fresh_one_the_base():
    model, batch = make("llama"), make_batch("llama")
    before = model(**batch).logits
    attach(model, DoRA(3, 7.0, TARGETS, dropout=0.4))
    torch.testing.assert_close(model.train()(**batch).logits, before, atol=1e-5, rtol=1e-5)


def test_counts_what_the_formula_says():
    _, adapter = model_with(DoRA(4, 8.0, ("q_proj", "v_proj")), "llama")
    # L · Σ r (in + out) + out: q is 64 -> 64, v is 64 -> 32
    expected = 2 * (4 * (64 + 64) + 64 + 4 * (64 + 32) + 32)
    assert trained_numbers(adapter) == expected


@pytest.mark.parametrize("other", [DoRA(2, 7.0), LoRA(2, 7.0)], ids=["DoRA", "LoRA"])
def test_cannot_stand_beside_another_on_one_layer(other):
    model = make("llama")
    attach(model, DoRA(3, 7.0), "one")
    attach(model, other, "two")
    with pytest.raises(ValueError, match=r"'one' and 'two' both change .*layers.0.self_attn.q_proj"):
        activate(model, "one", "two")


def test_a_file_says_whether_it_is_dora(tmp_path):
    for method in (DoRA(3, 7.0), LoRA(3, 7.0)):
        model = make("llama")
        attach(model, method)
        save_adapter(model, tmp_path)
        assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
        loaded = load_adapter(make("llama"), tmp_path)
        assert type(loaded.method) is type(method) and loaded.method.to_peft() == method.to_peft()


def test_refuses_what_lora_refuses():
    model = make("llama")
    for method, message in ((DoRA(33), "rank must be between 1 and 32 for .*v_proj"), (DoRA(3, -1.0), "alpha must be")):
        with pytest.raises(ValueError, match=message):
            attach(model, method)
    assert not attached(model)
