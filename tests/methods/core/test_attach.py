"""Attach, switch, merge, detach, save and load: what every method can rely on."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from helpers import same, snapshot, train
from pefteach.interop import load_adapter, save_adapter
from pefteach.methods import (
    BitFit,
    FullFineTuning,
    LastLayers,
    LoRA,
    Norms,
    PromptTuning,
    activate,
    attach,
    attached,
    detach,
)
from pefteach.methods.core.adapter import Method
from pefteach.methods.core.parts_adapter import PartsAdapter
from pefteach.methods.core.wrapping import Part
from pefteach.model.decoder import Config, Decoder, KVCache
from pefteach.model.generation import generate

METHODS = {
    "full": FullFineTuning(),
    "last block": LastLayers(1),
    "norms": Norms(),
    "bitfit": BitFit(),
    "lora": LoRA(3, 7.0, ("q_proj", "v_proj", "down_proj")),
    "rslora": LoRA(3, 7.0, "all-linear", dropout=0.1, rslora=True),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@every_method
def test_trains_exactly_what_it_says_and_gives_the_base_back(model, batch, method):
    stored, before = snapshot(model), model(**batch).logits
    adapter = attach(model, method)
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in adapter.trained_tensors().values()}
    torch.testing.assert_close(model(**batch).logits, before, atol=0, rtol=0)
    train(model)
    assert not torch.allclose(model(**batch).logits, before), "training changed nothing"
    activate(model)
    assert torch.equal(model(**batch).logits, before), "the bare base is not what it was"
    activate(model, "default")
    assert not torch.allclose(model(**batch).logits, before), "switching lost what was learned"
    detach(model)
    assert same(model, stored) and all(p.requires_grad for p in model.parameters())


@every_method
def test_saves_and_loads(model, batch, method, tmp_path):
    other = copy.deepcopy(model)
    attach(model, method)
    train(model)
    save_adapter(model, tmp_path)
    load_adapter(other, tmp_path)
    torch.testing.assert_close(other(**batch).logits, model(**batch).logits, atol=0, rtol=0)
    assert attached(other)["default"].method.to_peft() == method.to_peft()


def test_several_adapters_switch_without_touching_each_other(model, batch):
    alone = {}
    for name, method in METHODS.items():
        only = copy.deepcopy(model)
        torch.manual_seed(5)
        attach(only, method)
        train(only)
        alone[name] = only(**batch).logits
    for name, method in METHODS.items():
        torch.manual_seed(5)
        attach(model, method, name)
        train(model)
    for name in [*METHODS, *reversed(METHODS)]:
        activate(model, name)
        torch.testing.assert_close(model(**batch).logits, alone[name], atol=0, rtol=0)


def test_two_active_loras_add_up(model, batch):
    x = torch.randn(2, 5, 64)
    layer = model.model.layers[0].self_attn.q_proj
    parts = []
    for name, rank in [("a", 3), ("b", 5)]:
        adapter = attach(model, LoRA(rank, 7.0, ("q_proj",)), name)
        for p in adapter.trained_tensors().values():
            nn.init.normal_(p)
        parts.append(adapter.parts["model.layers.0.self_attn.q_proj"])
    activate(model, "a", "b")
    both = model.model.layers[0].self_attn.q_proj(x)
    torch.testing.assert_close(both, layer(x) + sum(x @ p.delta_weight().T for p in parts), atol=1e-4, rtol=1e-4)


def test_merge_and_unmerge(model, batch):
    stored = snapshot(model)
    adapter = attach(model, METHODS["lora"])
    train(model)
    learned = model(**batch).logits
    with pytest.raises(ValueError, match="adapter 'default' is not merged"):
        adapter.unmerge()
    adapter.merge()
    torch.testing.assert_close(model(**batch).logits, learned, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="merged already"):
        adapter.merge()
    adapter.unmerge()
    assert torch.equal(model(**batch).logits, learned), "unmerging is not bit-exact"
    adapter.merge()
    detach(model)
    assert same(model, stored), "detaching a merged adapter left its update behind"


def test_merge_refuses_what_it_cannot_do(model):
    adapter = attach(model, METHODS["lora"])
    next(iter(adapter.trained_tensors().values())).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        adapter.merge()
    activate(model)
    with pytest.raises(ValueError, match="switched off"):
        adapter.merge()
    norms = attach(model, Norms(), "norms")
    with pytest.raises(ValueError, match="Norms changes no weight matrix"):
        norms.merge()


def test_names_are_checked(model):
    attach(model, LoRA(3))
    with pytest.raises(ValueError, match="an adapter named 'default' is attached already"):
        attach(model, Norms())
    with pytest.raises(ValueError, match="a name without dots"):
        attach(model, Norms(), "a.b")
    with pytest.raises(ValueError, match="no adapter named 'x' here; attached are: default"):
        activate(model, "x")
    with pytest.raises(ValueError, match="no adapter named 'x' here"):
        detach(model, "x")
    with pytest.raises(ValueError, match="no adapter named 'x' here"):
        save_adapter(model, "anywhere", "x")


def test_files_that_do_not_fit_are_refused_and_change_nothing(model, tmp_path):
    attach(model, LoRA(3, 7.0))
    save_adapter(model, tmp_path)
    detach(model)
    stored = snapshot(model)
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    whole, settings, tensors = weights.read_bytes(), json.loads(config.read_text()), load_file(weights)

    def refused(message):
        with pytest.raises(ValueError, match=message):
            load_adapter(model, tmp_path)
        assert same(model, stored) and not attached(model)

    weights.write_bytes(whole[:-50])
    refused("is damaged or not a safetensors file")
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused("altered after it was saved: its checksum does not match")
    some = next(iter(tensors))
    save_file({k: v for k, v in tensors.items() if k != some}, weights)
    refused("missing .*q_proj.lora_A.weight")
    save_file(tensors | {"extra": torch.zeros(1)}, weights)
    refused("unexpected .'extra'.")
    weights.write_bytes(whole)
    config.write_text(json.dumps(settings | {"r": 5}))
    refused(r"is for another model: .* is \(3, 64\), here \(5, 64\)")
    config.write_text(json.dumps(settings | {"peft_type": "BONE"}))
    refused("describes 'BONE'; this version opens FullFineTuning, ")
    config.unlink()
    with pytest.raises(FileNotFoundError, match=r"no adapter_config\.json in"):
        load_adapter(model, tmp_path)


def test_bitfit_on_a_model_without_biases(batch):
    torch.manual_seed(0)
    bare = Decoder(Config(vocab_size=96, hidden_size=64, intermediate_size=128, attention_bias=False, mlp_bias=False))
    keys, before = list(bare.state_dict()), bare(**batch).logits
    with pytest.raises(ValueError, match="no biases: add zero ones with add_to=, to any of q_proj, "):
        attach(bare, BitFit())
    adapter = attach(bare, BitFit(add_to=("v_proj", "down_proj")))
    assert torch.equal(bare(**batch).logits, before) and len(adapter.trained_tensors()) == 4 * 2
    train(bare)
    assert not torch.allclose(bare(**batch).logits, before)
    detach(bare)
    assert list(bare.state_dict()) == keys and torch.equal(bare(**batch).logits, before)


@pytest.mark.parametrize("count, names", [(1, {"1"}), (2, {"0", "1"})])
def test_last_layers_are_the_last_ones(model, count, names):
    chosen = attach(model, LastLayers(count)).trained_tensors()
    assert {k.split(".")[2] for k in chosen if ".layers." in k} == names and "model.norm.weight" in chosen
    assert not any("embed" in k for k in chosen), "the embedding, tied to the head, must stay frozen"


@pytest.mark.parametrize("count", [0, 3])
def test_last_layers_refuses_a_wrong_count(model, count):
    with pytest.raises(ValueError, match="count must be between 1 and the 2 blocks"):
        attach(model, LastLayers(count))


# The interface must carry methods that act on the whole model, on the cache, or on a module's result.


class Prefix(Part):
    """Puts keys and values of its own at the start of every layer's cache."""

    def __init__(self, model, length=3):
        super().__init__()
        self.prefix = nn.Parameter(torch.randn(2, 2, 1, 2, length, 16))  # layer, key or value, 1, G, n, d

    def forward(self, call, input_ids, attention_mask, past_key_values=None, **kwargs):
        n, B = self.prefix.shape[-2], len(input_ids)
        if past_key_values is None or past_key_values.get_seq_length() == 0:
            past_key_values = KVCache(
                [(kv[0].expand(B, -1, -1, -1), kv[1].expand(B, -1, -1, -1)) for kv in self.prefix]
            )
        mask = torch.cat([attention_mask.new_ones(B, n), attention_mask], 1)
        return call(input_ids, attention_mask=mask, past_key_values=past_key_values, **kwargs)


class Gate(Part):
    """Adds the input to a module's result, through a gate that starts at zero."""

    def __init__(self, model):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, call, x, *args):
        y, weights = call(x, *args)
        return y + self.gate * x, weights


class Placed(Method):
    def __init__(self, path, part):
        self.path, self.part = path, part

    def build(self, model, name):
        return PartsAdapter(self, model, name, {self.path: self.part(model)})


@pytest.mark.parametrize(
    "method, identity",
    [(PromptTuning(3), False), (Placed("", Prefix), False), (Placed("model.layers.1.self_attn", Gate), True)],
    ids=["prompt", "prefix", "gated attention"],
)
def test_the_interface_carries_later_methods(model, batch, method, identity):
    stored, before = snapshot(model), model(**batch).logits
    attach(model, method)
    assert torch.allclose(model(**batch).logits, before) == identity
    assert model(**batch).logits.shape == before.shape
    history = train(model, steps=8)
    assert history.losses[-1] < history.losses[0]
    left = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"].flip(1)}
    ids, mask = left["input_ids"], left["attention_mask"]
    with_cache = generate(model, ids, 6, attention_mask=mask)
    assert torch.equal(with_cache, generate(model, ids, 6, attention_mask=mask, use_cache=False))
    detach(model)
    assert same(model, stored) and torch.equal(model(**batch).logits, before)


def test_a_budget_may_change_while_training(model):
    class Shrinking(PartsAdapter):
        def after_step(self, step, steps):
            with torch.no_grad():
                for part in self.parts.values():
                    part.lora_B.weight[:, 1 + step // 2 :] = 0

        def penalty(self):
            return 0.1 * sum(p.square().sum() for p in self.trained_tensors().values())

    class Method_(LoRA):
        def build(self, model, name):
            return Shrinking(self, model, name, super().build(model, name).parts)

    adapter = attach(model, Method_(8, 7.0, ("q_proj",)))
    train(model, steps=6)
    assert all(torch.linalg.matrix_rank(p.delta_weight()) <= 3 for p in adapter.parts.values())


def test_a_method_that_cannot_apply_leaves_a_merged_adapter_merged(model, batch):
    attach(model, LoRA(3, 7.0), "first")
    with torch.no_grad():
        for tensor in attached(model)["first"].trained_tensors().values():
            tensor.add_(0.1)
    attached(model)["first"].merge()
    before = model(**batch).logits
    with pytest.raises(ValueError, match="rank must be between"):
        attach(model, LoRA(1000), "second")
    assert attached(model)["first"].merged and torch.equal(model(**batch).logits, before)
