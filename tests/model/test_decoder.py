"""The decoder equals transformers' Llama, and says clearly what it does not do."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import pefteach.model.decoder as transformer
from helpers import TINY, logits, randomise
from pefteach.model.base import load_base
from pefteach.model.decoder import Config, Decoder, KVCache, attention
from pefteach.model.generation import generate
from pefteach.paths import BASE
from pefteach.workshop.parity.compare import difference

VARIANTS = {
    "grouped heads, biases, tied": {},
    "as many key as query heads": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "no biases": {"attention_bias": False, "mlp_bias": False},
    "attention biases only": {"mlp_bias": False},
    "untied head": {"tie_word_embeddings": False},
    "other theta": {"rope_theta": 500.0},
    "head size of its own": {"head_dim": 32},
    "other epsilon": {"rms_norm_eps": 1e-2},
}


def pair(tmp_path, **variant):
    """Our decoder and transformers' model, opened from the same folder."""
    ours = randomise(Decoder(Config(**(TINY | variant)))).eval()
    ours.save_pretrained(tmp_path)
    return Decoder.from_pretrained(tmp_path), LlamaForCausalLM.from_pretrained(tmp_path).eval()


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_logits_equal_transformers(tmp_path, batch, variant, side):
    if side == "left":
        batch["attention_mask"] = batch["attention_mask"].flip(1)
    ours, theirs = pair(tmp_path, **variant)
    assert difference(logits(ours, batch), logits(theirs, batch), batch) <= 1e-5


@pytest.mark.parametrize(
    "fault",
    [
        ("rotate", lambda x, cos, sin: x),
        ("rotate", lambda x, cos, sin: x * cos - torch.cat([-x.chunk(2, -1)[1], x.chunk(2, -1)[0]], -1) * sin),
        ("F.scaled_dot_product_attention", lambda q, k, v, mask: (q @ k.mT).masked_fill(~mask, -1e9).softmax(-1) @ v),
        ("F.scaled_dot_product_attention", lambda q, k, v, mask: (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v),
        ("RMSNorm.forward", lambda self, x: self.weight * x / x.pow(2).mean(-1, keepdim=True).sqrt()),
        ("MLP.forward", lambda self, x: self.down_proj(torch.relu(self.gate_proj(x)) * self.up_proj(x))),
    ],
    ids=["no positions", "turned the wrong way", "no scale", "no mask", "no epsilon", "wrong activation"],
)
def test_the_comparison_sees_a_fault(tmp_path, batch, monkeypatch, fault):
    name, wrong = fault
    ours, theirs = pair(tmp_path, rms_norm_eps=1e-2)
    owner, _, attribute = name.rpartition(".")
    if owner == "F":  # transformers uses the same functions: change them for our module only
        monkeypatch.setattr(transformer, "F", SimpleNamespace(**{**vars(torch.nn.functional), attribute: wrong}))
    else:
        monkeypatch.setattr(getattr(transformer, owner) if owner else transformer, attribute, wrong)
    assert difference(logits(ours, batch), logits(theirs, batch), batch) > 1e-3


def test_opens_what_transformers_saves(tmp_path, batch):
    theirs = randomise(LlamaForCausalLM(LlamaConfig(**TINY, attention_bias=True, tie_word_embeddings=False))).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert difference(logits(Decoder.from_pretrained(tmp_path), batch), logits(theirs, batch), batch) <= 1e-5


def test_the_base_equals_transformers():
    ours, tokenizer = load_base()
    theirs = LlamaForCausalLM.from_pretrained(BASE).eval()
    ids = torch.tensor([tokenizer.encode("The Lost Kite\nOne windy morning, Mia took her red kite to the park.").ids])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert difference(logits(ours, batch), logits(theirs, batch), batch) <= 1e-5


def test_weights_on_request_belong_to_the_same_logits(model, batch):
    with torch.no_grad():
        plain, watched = model(**batch), model(**batch, output_attentions=True)
    torch.testing.assert_close(plain.logits, watched.logits, atol=1e-5, rtol=0)
    weights = watched.attentions[0]
    assert plain.attentions is None and weights.shape == (3, 4, 9, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 9))
    assert weights.triu(1).abs().max() == 0, "a token looked ahead"


def test_attention_is_the_fused_kernel():
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    mask = torch.rand(2, 1, 5, 7) > 0.3
    mask[..., 0] = True
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
    torch.testing.assert_close(attention(q, k, v, mask)[0], expected)


def test_cache_changes_nothing(model, batch):
    ids, mask = batch["input_ids"], batch["attention_mask"].flip(1)
    whole = model(ids, attention_mask=mask).logits
    cache, pieces = KVCache(), []
    for start, end in [(0, 4), (4, 5), (5, 9)]:
        out = model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache)
        pieces.append(out.logits)
    torch.testing.assert_close(torch.cat(pieces, 1)[mask.bool()], whole[mask.bool()], atol=1e-5, rtol=0)
    assert cache.get_seq_length() == 9


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_equals_transformers(tmp_path, batch, use_cache):
    ours, theirs = pair(tmp_path)
    mask = batch["attention_mask"].flip(1)
    expected = theirs.generate(
        batch["input_ids"], attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    got = generate(ours, batch["input_ids"], 12, attention_mask=mask, use_cache=use_cache)
    assert torch.equal(got, expected)
    assert torch.equal(generate(theirs, batch["input_ids"], 12, attention_mask=mask, use_cache=use_cache), expected)


def test_generation_stops_and_samples(model, batch):
    first = generate(model, batch["input_ids"], 5)[:, 9]
    stopped = generate(model, batch["input_ids"][:1], 5, eos_token_id=int(first[0]))
    assert stopped.shape[1] == 10, "went on after the end token"
    draw = lambda seed: generate(model, batch["input_ids"], 8, temperature=1.0, seed=seed)
    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))
    assert torch.equal(
        generate(model, batch["input_ids"], 4, temperature=1.0, top_k=1), generate(model, batch["input_ids"], 4)
    )


def test_refuses_what_it_does_not_compute():
    llama = LlamaConfig(**TINY).to_dict()
    with pytest.raises(ValueError, match="RoPE scaling 'linear' is not supported"):
        Config.from_dict(llama | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    with pytest.raises(ValueError, match="not model_type 'gpt2'"):
        Config.from_dict(llama | {"model_type": "gpt2"})
    with pytest.raises(ValueError, match="activation 'gelu'"):
        Config.from_dict(llama | {"hidden_act": "gelu"})


def test_too_long_a_sequence_is_refused(model):
    with pytest.raises(ValueError, match="65 tokens are more than the 64 positions"):
        model(torch.zeros(1, 65, dtype=torch.long))
    cache = model(torch.zeros(1, 60, dtype=torch.long), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="65 tokens"):
        model(torch.zeros(1, 5, dtype=torch.long), past_key_values=cache)


def test_damaged_checkpoints_are_refused(tmp_path, model):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        Decoder.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 192}))
    with pytest.raises(ValueError, match=r"do not fit its config\.json"):
        Decoder.from_pretrained(tmp_path)
