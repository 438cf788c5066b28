"""What prefix tuning has of its own: the cache it starts, the MLP it drops, and peft's files."""

import copy
import json

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import DynamicCache, LlamaForCausalLM

from helpers import logits, model_with, real, refuses, trained_numbers
from pefteach.interop import load_adapter, save_adapter
from pefteach.methods import PrefixTuning, attach
from pefteach.model.decoder import KVCache
from pefteach.workshop.parity.families import make, make_batch

FAMILIES = ("llama", "qwen2", "gpt2", "bert")
PREFIX = PrefixTuning(5)
WITH_MLP = PrefixTuning(5, encoder_hidden_size=24)


@pytest.mark.parametrize("family, direct, with_mlp", [("llama", 640, 5440), ("gpt2", 1280, 10848)])
def test_counts_what_the_formula_says(family, direct, with_mlp):
    # n · 2 L G d, with 2 key heads of 4 on Llama; and n G d + (G d + 1) h + (h + 1) 2 L G d
    for method, count in ((PrefixTuning(5), direct), (PrefixTuning(5, encoder_hidden_size=32), with_mlp)):
        adapter = model_with(method, family)[1]
        assert trained_numbers(adapter) == count == method.trained_parameters(make(family))
        assert sum(p.numel() for p in adapter.file_tensors().values()) == direct


def test_the_decoder_computes_what_transformers_does(tmp_path):
    ours = make("ours")
    ours.save_pretrained(tmp_path)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    tensors = attach(ours, WITH_MLP).trained_tensors()
    peers = attach(theirs, WITH_MLP).trained_tensors()
    with torch.no_grad():
        for key, tensor in tensors.items():
            peers[key].copy_(tensor)
    batch = make_batch("ours")
    torch.testing.assert_close(real(logits(ours, batch), batch), real(logits(theirs, batch), batch))


def test_a_prefix_of_zeros_still_takes_its_share():
    """Zero keys score 0, not minus infinity: every head is scaled by 1 - λ, and λ is what falls on the prefix."""
    model, batch = make("ours"), make_batch("ours")
    seen = []
    model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits(model, batch)
    adapter = attach(model, PrefixTuning(5))
    nn.init.zeros_(adapter.part.embedding.weight)
    with torch.no_grad():
        weights = model(**batch, output_attentions=True).attentions[0]  # (B, H, T, n + T)
    share = weights[..., :5].sum(-1, keepdim=True).transpose(1, 2)  # λ (B, T, H, 1)
    without, with_prefix = (real(x.unflatten(-1, (4, 16)), batch) for x in seen)
    assert share.min() > 0.1
    torch.testing.assert_close(with_prefix, (1 - real(share, batch)) * without)


@pytest.mark.parametrize("family", ["ours", *FAMILIES])
def test_no_mask_is_a_mask_of_ones_and_given_positions_are_moved(family):
    model, _ = model_with(PREFIX, family)
    ids = make_batch(family)["input_ids"]
    plain = logits(model, {"input_ids": ids})
    torch.testing.assert_close(logits(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}), plain)
    places = torch.arange(ids.shape[1]).expand_as(ids)
    torch.testing.assert_close(logits(model, {"input_ids": ids, "position_ids": places}), plain)
    embedded = model.get_input_embeddings()(ids)
    torch.testing.assert_close(logits(model, {"inputs_embeds": embedded}), plain)


@pytest.mark.parametrize("family, cache", [("ours", KVCache), ("llama", DynamicCache), ("gpt2", DynamicCache)])
def test_an_empty_cache_gets_the_prefix_once(family, cache):
    model, _ = model_with(PREFIX, family)
    batch, cache = make_batch(family, rows=2), cache()
    whole = logits(model, {"input_ids": batch["input_ids"]})
    with torch.no_grad():
        model(input_ids=batch["input_ids"][:, :6], past_key_values=cache, use_cache=True)
        assert cache.get_seq_length() == 5 + 6
        rest = model(input_ids=batch["input_ids"][:, 6:], past_key_values=cache, use_cache=True).logits
    assert cache.get_seq_length() == 5 + 9
    torch.testing.assert_close(rest, whole[:, 6:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_generates_what_peft_generates(family, use_cache):
    base = make(family)
    model, adapter = model_with(PREFIX, family)
    theirs = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)).eval()
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.copy_(adapter.part.embedding.weight)
    batch = make_batch(family)
    batch["attention_mask"] = batch["attention_mask"].flip(1)  # padded on the left
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(**batch, **settings)  # with its cache: without one peft fails on a Llama
    assert torch.equal(model.generate(**batch, **settings, use_cache=use_cache), expected)
    beams = theirs.generate(**batch, **settings, num_beams=2)
    assert torch.equal(model.generate(**batch, **settings, num_beams=2, use_cache=use_cache), beams)


def test_without_a_cache_none_comes_back():
    """transformers' generate would go on from any cache that is returned."""
    model, _ = model_with(PREFIX, "llama")
    assert model(**make_batch("llama"), use_cache=False).past_key_values is None


def test_collapsing_keeps_the_prefix_and_drops_the_mlp():
    model, adapter = model_with(WITH_MLP, "llama")
    batch = make_batch("llama")
    before, stored = logits(model, batch), adapter.file_tensors()["prompt_embeddings"].clone()
    assert len(adapter.trained_tensors()) == 5 and adapter.to_peft()["prefix_projection"]
    adapter.collapse()
    adapter.collapse()  # a second time there is nothing to do
    assert torch.equal(logits(model, batch), before) and torch.equal(
        adapter.file_tensors()["prompt_embeddings"], stored
    )
    assert adapter.trained_tensors().keys() == {"prompt_encoder.embedding.weight"}
    assert not adapter.to_peft()["prefix_projection"]
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert len(trainable) == 1 and trainable[0] is adapter.trained_tensors()["prompt_encoder.embedding.weight"]


def test_stored_values_fit_an_adapter_that_has_its_mlp():
    stored = model_with(PREFIX, "llama")[1].file_tensors()
    model, adapter = model_with(WITH_MLP, "llama")
    with pytest.raises(ValueError, match=r"prompt_embeddings is \(4, 128\), here \(5, 128\)"):
        adapter.load_tensors({"prompt_embeddings": torch.zeros(4, 128)})
    assert adapter.part.transform is not None
    adapter.load_tensors(stored)
    torch.testing.assert_close(
        logits(model, make_batch("llama")), logits(model_with(PREFIX, "llama")[0], make_batch("llama"))
    )


def opened_by_peft(base, folder):
    """The logits of the base with peft's adapter, which for a BERT is on the body, below the head."""
    if not hasattr(base, "cls"):
        return lambda batch: logits(PeftModel.from_pretrained(base, folder).eval(), batch)
    body = PeftModel.from_pretrained(base.bert, folder).eval()
    return lambda batch: base.cls(body(**batch).last_hidden_state).detach()


@pytest.mark.parametrize("encoder_hidden_size", [None, 24], ids=["direct", "mlp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_files_travel_both_ways(family, encoder_hidden_size, tmp_path):
    batch, base = make_batch(family), make(family)
    model, adapter = model_with(PrefixTuning(5, encoder_hidden_size), family)
    save_adapter(model, tmp_path / "ours")
    tensors = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    width = 64 if family in ("gpt2", "bert") else 32
    assert {key: tuple(t.shape) for key, t in tensors.items()} == {"prompt_embeddings": (5, 2 * 2 * width)}
    again = opened_by_peft(copy.deepcopy(base), tmp_path / "ours")(batch)
    torch.testing.assert_close(real(again, batch), real(logits(model, batch), batch), atol=1e-5, rtol=1e-5)

    config = PrefixTuningConfig(
        task_type=adapter.to_peft().get("task_type", "CAUSAL_LM"), num_virtual_tokens=5,
        prefix_projection=encoder_hidden_size is not None, encoder_hidden_size=encoder_hidden_size,
    )  # fmt: skip
    get_peft_model(base.base_model if family == "bert" else base, config).save_pretrained(tmp_path / "theirs")
    expected = opened_by_peft(make(family), tmp_path / "theirs")(batch)
    ours = make(family)
    loaded = load_adapter(ours, tmp_path / "theirs")
    assert loaded.method == PrefixTuning(5) and loaded.part.transform is None, "what is loaded has no MLP"
    torch.testing.assert_close(real(logits(ours, batch), batch), real(expected, batch), atol=1e-5, rtol=1e-5)


def test_the_file_says_how_it_was_trained(tmp_path):
    model, _ = model_with(WITH_MLP, "llama")
    save_adapter(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["num_virtual_tokens"]) == ("PREFIX_TUNING", 5)
    assert config["prefix_projection"] and config["encoder_hidden_size"] == 24 and config["inference_mode"]


@pytest.mark.parametrize(
    "family, method, message",
    [
        ("llama", PrefixTuning(0), "num_virtual_tokens and encoder_hidden_size must be at least 1, not 0 and None"),
        (
            "llama",
            PrefixTuning(5, encoder_hidden_size=0),
            "num_virtual_tokens and encoder_hidden_size must be at least 1, not 5 and 0",
        ),
        ("t5", PrefixTuning(5), "one cache, and T5ForConditionalGeneration has an encoder and a decoder: use LoRA"),
    ],
)
def test_refuses_what_it_cannot_do_and_changes_nothing(family, method, message):
    refuses(make(family), method, message)


def test_refuses_a_model_without_a_cache():
    with pytest.raises(ValueError, match="whose call takes past_key_values, and Linear takes input: pass the course's"):
        attach(nn.Linear(3, 4), PrefixTuning(5))


def test_refuses_gradient_checkpointing():
    """transformers drops the cache with no more than a warning, so the prefix would train unseen."""
    model = make("llama")
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="under gradient checkpointing: switch that off"):
        attach(model, PrefixTuning(5))
    model.gradient_checkpointing_disable()
    model.set_attn_implementation("eager")
    attach(model, PrefixTuning(5))
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="under gradient checkpointing: switch that off"):
        model.train()(**make_batch("llama"))


@pytest.mark.parametrize("family", ["ours", "gpt2"])
def test_says_how_long_a_text_may_be(family):
    model, _ = model_with(PREFIX, family)
    cache = KVCache() if family == "ours" else DynamicCache()
    with pytest.raises(ValueError, match="5 prompt vectors and 60 tokens are more than the 64 positions"):
        model(input_ids=torch.ones(1, 60, dtype=torch.long), past_key_values=cache)
    assert cache.get_seq_length() == 0, "a refused call leaves the cache as it was"
