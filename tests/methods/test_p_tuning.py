"""What P-tuning has of its own: the network, what is kept of it, files, refusals."""

import pytest
import torch
from safetensors.torch import load_file

from helpers import logits, model_with, trained_numbers
from methods.test_prompt_tuning import ours_opens_pefts, peft_opens_ours
from pefteach.interop import load_adapter, save_adapter
from pefteach.methods import PTuning, attach
from pefteach.workshop.parity.families import make, make_batch

BOTH = {"mlp": PTuning(5, encoder_hidden_size=32), "lstm": PTuning(5, "lstm", 32)}
both = pytest.mark.parametrize("method", BOTH.values(), ids=BOTH)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@both
def test_files_open_in_peft_and_pefts_open_here(method, family, tmp_path):
    peft_opens_ours(method, family, tmp_path / "ours")
    adapter = ours_opens_pefts(method.to_peft(), family, tmp_path / "theirs")
    assert adapter.method.to_peft() == method.to_peft()


@pytest.mark.parametrize(
    "method, count",
    [
        (BOTH["mlp"], 5568),
        (BOTH["lstm"], 58816),
        (PTuning(5, "lstm", 7, encoder_num_layers=3), None),
        (PTuning(4), None),
    ],
)
def test_counts_what_the_formula_says(method, count):
    _, adapter = model_with(method, "llama")
    trained = trained_numbers(adapter)
    assert trained == method.trained_parameters(make("llama")) and count in (None, trained)


def test_the_lstm_reads_both_ways():
    _, adapter = model_with(BOTH["lstm"])
    before = adapter.part.vectors().detach()
    for moved, looked_at in ((0, -1), (-1, 0)):
        with torch.no_grad():
            adapter.part.embedding.weight[moved] += 1
        after = adapter.part.vectors().detach()
        assert not torch.allclose(after[looked_at], before[looked_at]), "one end does not know of the other"
        before = after


@both
def test_collapses_to_plain_vectors(method):
    model, adapter = model_with(method)
    batch = make_batch("ours")
    before, raw = logits(model, batch), adapter.part.embedding.weight.detach().clone()
    adapter.collapse()
    assert torch.equal(logits(model, batch), before)
    assert list(adapter.trained_tensors()) == ["prompt_encoder.embedding.weight"]
    assert not torch.allclose(adapter.part.embedding.weight, raw), "what went into the network was kept, not its result"
    adapter.collapse()
    assert torch.equal(logits(model, batch), before), "collapsing twice is not collapsing once"
    model(**batch).logits.sum().backward()
    assert adapter.part.embedding.weight.grad.abs().max() > 0, "plain vectors must train on"


@both
def test_a_file_holds_the_result_and_loads_as_plain_vectors(method, tmp_path):
    model, _ = model_with(method)
    batch = make_batch("ours")
    save_adapter(model, tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert {key: tuple(t.shape) for key, t in stored.items()} == {"prompt_embeddings": (5, 64)}
    other = make("ours")
    loaded = load_adapter(other, tmp_path)
    assert list(loaded.trained_tensors()) == ["prompt_encoder.embedding.weight"]
    assert torch.equal(logits(other, batch), logits(model, batch))


def test_dropout_does_not_get_into_a_file():
    model, adapter = model_with(PTuning(5, "lstm", 32, dropout=0.5))
    model.train()
    assert not torch.equal(adapter.part.vectors(), adapter.part.vectors()), "there is no dropout to keep out"
    first = adapter.file_tensors()["prompt_embeddings"]
    assert torch.equal(first, adapter.file_tensors()["prompt_embeddings"]) and adapter.part.training
    model.eval()
    torch.testing.assert_close(first, adapter.part.vectors().detach(), atol=1e-6, rtol=1e-5)


def test_a_file_that_does_not_fit_leaves_the_network(tmp_path):
    _, adapter = model_with(BOTH["lstm"])
    names = list(adapter.trained_tensors())
    with pytest.raises(ValueError, match=r"prompt_embeddings is \(4, 64\), here \(5, 64\)"):
        adapter.load_tensors({"prompt_embeddings": torch.zeros(4, 64)})
    assert list(adapter.trained_tensors()) == names


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"encoder": "gru"}, "encoder must be 'mlp' or 'lstm', not 'gru'"),
        ({"encoder_hidden_size": 0}, "encoder_num_layers and encoder_hidden_size must be at least 1, not 2 and 0"),
        ({"encoder_num_layers": 0}, "encoder_num_layers and encoder_hidden_size must be at least 1, not 0 and None"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"num_virtual_tokens": 0}, "num_virtual_tokens must be at least 1"),
    ],
)
def test_refuses_wrong_settings(model, settings, message):
    with pytest.raises(ValueError, match=message):
        attach(model, PTuning(**settings))
