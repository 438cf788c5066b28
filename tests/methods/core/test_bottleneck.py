"""Bottleneck adapters: how they start, where they may go, and their files. Parity and the contract are elsewhere."""

import copy
import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path

import adapters as library
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from helpers import logits, model_with, real, refuses, same, snapshot, trained_numbers
from pefteach.interop import load_adapter, load_from_adapters, save_adapter, save_to_adapters
from pefteach.interop.adapters_files import library_config, library_names, method_of
from pefteach.methods import (
    BitFit,
    HoulsbyAdapters,
    LoRA,
    Norms,
    ParallelAdapters,
    PfeifferAdapters,
    activate,
    attach,
    attached,
    detach,
)
from pefteach.methods.core.sites import Sites
from pefteach.methods.houlsby import HoulsbyPart
from pefteach.workshop.parity.compare import difference, shake
from pefteach.workshop.parity.families import SIZES, make, make_batch
from pefteach.workshop.parity.reference import in_adapters

logging.getLogger("adapters").setLevel(logging.ERROR)

KINDS = {
    "Houlsby": HoulsbyAdapters(size=7, scale=1.5),
    "Pfeiffer": PfeifferAdapters(9, activation="gelu", scale="learned"),
    "parallel": ParallelAdapters(size=7),
}
FAMILIES = ("llama", "qwen2", "gpt2", "bert")
every_kind = pytest.mark.parametrize("method", KINDS.values(), ids=KINDS)


# How they start


def test_starts_like_the_library():
    """The same random numbers give the same start values."""
    for init in ("near", "bert", "zero"):
        for method in (HoulsbyAdapters(size=7, init=init), ParallelAdapters(size=7, init=init)):
            ours, theirs = make("llama"), make("llama")
            library.init(theirs)
            torch.manual_seed(5)
            adapter = attach(ours, method)
            torch.manual_seed(5)
            theirs.add_adapter("x", library.BnConfig.from_dict(library_config(method, theirs)))
            peers = dict(theirs.named_parameters())
            names = library_names(adapter, "x")
            assert all(torch.equal(tensor, peers[names[key]]) for key, tensor in adapter.trained_tensors().items())


def test_starts_near_the_base():
    """A fresh adapter changes the logits a little, and with "zero" not at all."""
    batch = make_batch("llama")
    before = logits(make("llama"), batch)
    for kind in (HoulsbyAdapters, PfeifferAdapters, ParallelAdapters):
        moved = {}
        for init in ("near", "bert", "zero"):
            model = make("llama")
            attach(model, kind(size=16, init=init))
            moved[init] = difference(logits(model, batch), before, batch) / real(before, batch).abs().max().item()
        assert moved["zero"] == 0
        assert 0 < moved["near"] < moved["bert"] < 0.05


def test_near_is_cut_at_two_widths():
    for init, limit, width in (("near", 0.02, 0.0088), ("bert", 0.1, 0.02)):  # cut at 2σ, σ shrinks to 0.88 of itself
        part = HoulsbyPart(256, 64, HoulsbyAdapters(init=init))
        for layer in (part.adapter_down, part.adapter_up):
            assert layer.weight.abs().max() <= limit and abs(layer.weight.std().item() / width - 1) < 0.05
            assert not layer.bias.any()


# What they compute


def test_counts_what_the_formula_says():
    model = make("llama")
    for method, count in ((HoulsbyAdapters(), 2320), (PfeifferAdapters(), 1160), (ParallelAdapters(), 8384)):
        adapter = attach(model, method)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert trained == trained_numbers(adapter) == count
        assert method.trained_parameters(model) == count
        detach(model)
    assert ParallelAdapters(scale="learned").trained_parameters(model) == 8384 + 2


def test_places():
    """Two per block for Houlsby, one for the others, and nothing trained where the stream is read."""
    sites = {name: set(model_with(method, "llama")[1].parts) for name, method in KINDS.items()}
    block = "model.layers.1."
    assert {path for path in sites["Houlsby"] if block in path} == {f"{block}self_attn", f"{block}mlp"}
    for name in ("Pfeiffer", "parallel"):
        assert {p for p in sites[name] if block in p} == {f"{block}mlp", f"{block}post_attention_layernorm"}
    assert not any("layernorm" in key for key in model_with(KINDS["parallel"], "llama")[1].trained_tensors())


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@every_kind
def test_stands_behind_the_dropout_of_the_base(family, method):
    """In training both draw the same random numbers, so the base's own dropout drops the same in both."""
    base = make(family)
    for module in base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    ours = copy.deepcopy(base)
    adapter = attach(ours, method)
    reference = in_adapters(base, adapter)
    shake(adapter.trained_tensors())
    reference.take_over(adapter)
    batch, results = make_batch(family), []
    for model in (ours.train(), reference.model.train()):
        torch.manual_seed(3)
        results.append(logits(model, batch))
    assert difference(*results, batch) <= 1e-5


def test_dropout_takes_its_share_of_the_update():
    part = HoulsbyPart(256, 16, HoulsbyAdapters(dropout=0.4)).train()
    x, h = torch.randn(4, 9, 256), torch.randn(4, 9, 256)
    with torch.no_grad():
        update = part.eval().add(h, x) - h
        dropped = part.train().add(h, x) - h
    gone = dropped.abs() < 1e-7
    assert abs(gone.float().mean().item() - 0.4) < 0.03
    torch.testing.assert_close(dropped[~gone], update[~gone] / 0.6, atol=1e-5, rtol=1e-3)


@every_kind
def test_hidden_states_are_those_with_the_adapter(method):
    """transformers records what a block itself returns, so a part around the whole block would come too late."""
    base, batch = make("llama"), make_batch("llama")
    ours = copy.deepcopy(base)
    adapter = attach(ours, method)
    reference = in_adapters(base, adapter)
    shake(adapter.trained_tensors())
    reference.take_over(adapter)
    with torch.no_grad():
        mine, yours = (m(**batch, output_hidden_states=True).hidden_states for m in (ours, reference.model))
    assert len(mine) == len(yours) == 3
    assert all((a - b).abs().max() <= 1e-5 for a, b in zip(mine, yours, strict=True))


@every_kind
def test_works_with_gradient_checkpointing(method):
    gradients = []
    for checkpointing in (False, True):
        model, adapter = model_with(method, "llama")
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**make_batch("llama")).logits.square().mean().backward()
        gradients.append([p.grad for p in adapter.trained_tensors().values()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@every_kind
def test_distilbert_equals_the_library(method):
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=96, dim=64, hidden_dim=128, n_layers=2, n_heads=4, dropout=0, attention_dropout=0
    )
    base, batch = transformers.DistilBertForMaskedLM(config).eval(), make_batch("bert")
    ours = copy.deepcopy(base)
    adapter = attach(ours, method)
    reference = in_adapters(base, adapter)
    shake(adapter.trained_tensors())
    assert reference.peers.keys() == adapter.trained_tensors().keys()
    reference.take_over(adapter)
    assert difference(logits(ours, batch), logits(reference.model, batch), batch) <= 1e-5


# Beside other methods


def test_parallel_adapters_add_up_in_any_order():
    model, batch = make("llama"), make_batch("llama")
    for name in "ab":
        shake(attach(model, ParallelAdapters(size=7), name).trained_tensors(), seed=ord(name))
    activate(model, "a", "b")
    together = logits(model, batch)
    activate(model)
    activate(model, "b", "a")
    assert difference(together, logits(model, batch), batch) <= 1e-5
    activate(model, "a")
    assert difference(together, logits(model, batch), batch) > 1e-2


def test_serial_adapters_refuse_company_at_the_same_place():
    model = make("llama")
    attach(model, HoulsbyAdapters(), "a")
    attach(model, PfeifferAdapters(), "b")
    with pytest.raises(ValueError, match=r"both change model\.layers\.\d\.mlp, and the result would depend on their"):
        activate(model, "a", "b")


@pytest.mark.parametrize("lora_first", [True, False])
def test_goes_with_lora_inside_the_same_mlp_and_with_the_norms(lora_first):
    model, batch = make("llama"), make_batch("llama")
    stored, before = snapshot(model), logits(model, batch)
    methods = {"lora": LoRA(3, 7.0, ("down_proj", "o_proj")), "houlsby": HoulsbyAdapters(size=7), "norms": Norms()}
    for name in methods if lora_first else reversed(methods):
        shake(attach(model, methods[name], name).trained_tensors())
    activate(model, *methods)
    all_three = logits(model, batch)
    for left_out in methods:
        activate(model, *(name for name in methods if name != left_out))
        assert difference(all_three, logits(model, batch), batch) > 1e-3, f"{left_out} does nothing"
    for name in methods:
        detach(model, name)
    assert same(model, stored) and torch.equal(logits(model, batch), before)


# What they refuse


@pytest.mark.parametrize(
    "method, message",
    [
        (HoulsbyAdapters(size=0), "size 0 gives a bottleneck of 0 numbers: it needs 1 to 64, the hidden size"),
        (HoulsbyAdapters(size=65), "size 65 gives a bottleneck of 65"),
        (PfeifferAdapters(reduction=65), "reduction 65 gives a bottleneck of 0"),
        (PfeifferAdapters(reduction=0), "reduction 0 gives a bottleneck of 0"),
        (PfeifferAdapters(reduction=-2), "reduction -2 gives a bottleneck of 0"),
        (ParallelAdapters(scale=0), "scale must be above 0 or 'learned', not 0"),
        (ParallelAdapters(scale="channel"), "scale must be above 0 or 'learned', not 'channel'"),
        (HoulsbyAdapters(activation="mish"), "activation must be one of relu, swish, gelu, gelu_new, not 'mish'"),
        (HoulsbyAdapters(init="random"), "init must be one of near, bert, zero, not 'random'"),
        (HoulsbyAdapters(dropout=1.0), "dropout must be at least 0 and below 1, not 1"),
        (HoulsbyAdapters(sites=Sites("attn", "mlp", "ln_2")), "names 'attn', which is not in model.layers.0: it holds"),
    ],
)
def test_refuses_wrong_settings_and_changes_nothing(model, method, message):
    refuses(model, method, message)


def test_refuses_blocks_it_does_not_know():
    with pytest.raises(ValueError, match=r"^encoder\.block\.0 holds layer, and the known blocks hold self_attn, mlp, "):
        attach(make("t5"), HoulsbyAdapters())
    # Gemma 2 has every name of a Llama and two more: there post_attention_layernorm is something else.
    gemma = transformers.Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=16)
    with pytest.raises(ValueError, match=r"holds self_attn, .*, post_feedforward_layernorm, and .*: say with sites="):
        attach(transformers.Gemma2ForCausalLM(gemma), PfeifferAdapters())


@pytest.mark.parametrize("kind", [HoulsbyAdapters, PfeifferAdapters, ParallelAdapters])
def test_other_blocks_work_once_their_sites_are_named(kind, tmp_path):
    torch.manual_seed(0)
    config = transformers.OPTConfig(
        vocab_size=96, hidden_size=64, ffn_dim=128, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=64,
        max_position_embeddings=64, dropout=0, do_layer_norm_before=True,
    )  # fmt: skip
    model, batch = transformers.OPTForCausalLM(config).eval(), make_batch("llama")
    other = copy.deepcopy(model)
    sites = Sites("self_attn", "fc2", "final_layer_norm")
    adapter = attach(model, kind(size=7, sites=sites))
    before = logits(model, batch)
    shake(adapter.trained_tensors())
    assert difference(logits(model, batch), before, batch) > 1e-3
    save_adapter(model, tmp_path)
    assert load_adapter(other, tmp_path).method.sites == sites
    assert torch.equal(logits(other, batch), logits(model, batch))
    with pytest.raises(ValueError, match="the adapters library has no place for base_model"):
        save_to_adapters(model, tmp_path / "theirs")


# Files


@pytest.mark.parametrize("family", FAMILIES)
@every_kind
def test_files_travel_both_ways(family, method, tmp_path):
    batch = make_batch(family)
    ours, _ = model_with(method, family)
    save_to_adapters(ours, tmp_path / "ours")
    theirs = make(family)
    library.init(theirs)
    report: dict = {}
    theirs.load_adapter(str(tmp_path / "ours"), use_safetensors=True, set_active=True, loading_info=report)
    theirs.eval()
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert difference(logits(theirs, batch), logits(ours, batch), batch) <= 1e-5

    theirs.add_adapter("another", library.BnConfig.from_dict(library_config(method, theirs)), set_active=True)
    shake({n: p for n, p in theirs.named_parameters() if ".another." in n}, seed=7)
    theirs.eval().save_adapter(str(tmp_path / "theirs"), "another", with_head=False, use_safetensors=True)
    again = make(family)
    loaded = load_from_adapters(again, tmp_path / "theirs", "mine")
    assert difference(logits(again, batch), logits(theirs, batch), batch) <= 1e-5
    assert difference(logits(again, batch), logits(ours, batch), batch) > 1e-3
    assert loaded.method.widths(again) == method.widths(again)


def test_the_file_of_the_decoder_opens_in_a_llama(model, batch, tmp_path):
    model.save_pretrained(tmp_path / "base")
    shake(attach(model, HoulsbyAdapters(size=7)).trained_tensors())
    save_to_adapters(model, tmp_path / "adapter")
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base").eval()
    library.init(theirs)
    theirs.load_adapter(str(tmp_path / "adapter"), use_safetensors=True, set_active=True)
    assert difference(logits(theirs, batch), logits(model, batch), batch) <= 1e-5


@pytest.mark.parametrize("config", ["double_seq_bn", "seq_bn", "par_bn", "scaled_par_bn"])
def test_the_librarys_own_settings_are_understood(config, tmp_path):
    theirs, batch = make("llama"), make_batch("llama")
    library.init(theirs)
    theirs.add_adapter("x", config, set_active=True)
    theirs.eval().save_adapter(str(tmp_path), "x", with_head=False, use_safetensors=True)
    ours = make("llama")
    loaded = load_from_adapters(ours, tmp_path)
    assert difference(logits(ours, batch), logits(theirs, batch), batch) <= 1e-5
    stored = json.loads((tmp_path / "adapter_config.json").read_text())["config"]
    again = library_config(loaded.method, ours)
    assert {key: stored.get(key) for key in again} == again


def test_our_settings_are_the_librarys():
    model = make("llama")
    theirs = {
        HoulsbyAdapters(init="bert"): library.DoubleSeqBnConfig(),
        PfeifferAdapters(init="bert"): library.SeqBnConfig(),
        ParallelAdapters(): library.ParBnConfig(),
    }
    for method, config in theirs.items():
        assert library.BnConfig.from_dict(library_config(method, model)).to_dict() == config.to_dict()
        assert method_of({"version": "adapters.1.3.0", "config": config.to_dict()}) == method


@pytest.mark.parametrize("D", [64, 192, 768, 1000])
def test_the_size_survives_the_librarys_reduction_factor(D):
    model = type("Any", (), {"config": type("C", (), {"hidden_size": D})})()
    for size in range(1, D + 1):
        config = library_config(HoulsbyAdapters(size=size), model)
        assert int(D // config["reduction_factor"]) == size  # as the library computes it
        assert method_of({"version": "adapters.1.3.0", "config": config}).widths(model) == (D, size)


def test_holds_exactly_the_promised_tensors():
    model, _ = model_with(KINDS["Houlsby"], "bert")
    with tempfile.TemporaryDirectory() as folder:
        save_to_adapters(model, folder)
        stored = load_file(Path(folder) / "adapter.safetensors")
    one = {"adapter_down.0.weight": (7, 64), "adapter_down.0.bias": (7,), "adapter_up.weight": (64, 7)}
    one["adapter_up.bias"] = (64,)
    places = [
        f"bert.encoder.layer.{i}.{half}.adapters.default" for i in (0, 1) for half in ("attention.output", "output")
    ]
    assert {k: tuple(v.shape) for k, v in stored.items()} == {f"{p}.{k}": s for p in places for k, s in one.items()}


def test_missing_and_unexpected_keys_are_listed():
    source, _ = model_with(KINDS["Pfeiffer"], "llama")
    with tempfile.TemporaryDirectory() as folder:
        save_to_adapters(source, folder)
        weights = Path(folder) / "adapter.safetensors"
        tensors = load_file(weights)
        some = "model.layers.1.output_adapters.adapters.default.adapter_down.0.bias"
        save_file({k: v for k, v in tensors.items() if k != some} | {"extra": torch.zeros(1)}, weights)
        with pytest.raises(ValueError, match=rf"does not fit this model: missing \['{some}'\], unexpected \['extra'\]"):
            load_from_adapters(make("llama"), folder)


def test_library_files_that_do_not_fit_are_refused_and_change_nothing(tmp_path):
    source, _ = model_with(KINDS["Pfeiffer"], "llama")
    save_to_adapters(source, tmp_path)
    model = make("llama")
    keys = list(model.state_dict())
    weights, settings = tmp_path / "adapter.safetensors", tmp_path / "adapter_config.json"
    whole, config = weights.read_bytes(), json.loads(settings.read_text())

    def refused(message, kind=ValueError):
        with pytest.raises(kind, match=message):
            load_from_adapters(model, tmp_path)
        assert list(model.state_dict()) == keys and not attached(model)

    def with_setting(**changes):
        settings.write_text(json.dumps(config | {"config": config["config"] | changes}))

    weights.write_bytes(whole[:-50])
    refused("is damaged or not a safetensors file")
    weights.write_bytes(whole)
    with_setting(reduction_factor=4)
    refused(r"is for another model: .*adapter_down\.0\.\w+ is \(7,.*, here \(16,")
    with_setting(reduction_factor={"0": 4, "default": 8})
    refused("reduction_factor is {'0': 4, 'default': 8}")
    with_setting(leave_out=[0], use_gating=True)
    refused("neither Houlsby's nor Pfeiffer's nor parallel adapters: use_gating is True, leave_out is .0.")
    settings.write_text(json.dumps(config | {"config": library.LoRAConfig().to_dict()}))
    refused("architecture is 'lora', .*reduction_factor is None")
    with_setting(scaling="channel")
    refused("scale must be above 0 or 'learned', not 'channel'")
    settings.write_text(json.dumps({key: value for key, value in config.items() if key != "version"}))
    refused("was not written by adapters 1.0 or later")
    settings.unlink()
    refused(r"no adapter_config\.json in", FileNotFoundError)
    weights.rename(tmp_path / "pytorch_adapter.bin")
    refused(r"is a pickle, .*model\.save_adapter\(folder, name, with_head=False, use_safetensors=True\)")


def test_only_bottlenecks_go_to_the_library(tmp_path):
    model = make("llama")
    attach(model, BitFit())
    with pytest.raises(ValueError, match="'default' is BitFit: the adapters library takes only bottleneck adapters"):
        save_to_adapters(model, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_our_own_file_says_which_method_it_is(tmp_path):
    for method in KINDS.values():
        model, adapter = model_with(method, "gpt2")
        save_adapter(model, tmp_path)
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        assert config["peft_type"] is None and config["method"] == type(method).__name__
        assert load_adapter(make("gpt2"), tmp_path).method == method
        assert load_file(tmp_path / "adapter_model.safetensors").keys() == adapter.trained_tensors().keys()
        assert asdict(method).items() <= config.items()
        assert len(library_names(adapter, "x")) == len(adapter.trained_tensors())
