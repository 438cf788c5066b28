"""Whole models in 4 bits, by either back end, with adapters on them; and bitsandbytes' faults on AVX-512 kept out."""

import pytest
import torch
from torch import nn

from helpers import same, snapshot, train_by_hand
from pefteach.measure.parameters import count_parameters
from pefteach.methods import BitFit, DoRA, FullFineTuning, HoulsbyAdapters, LastLayers, LoRA, attach, detach
from pefteach.model.base import load_base
from pefteach.quant import Linear4bit, dequantise, load_in_4bit, quantise
from pefteach.quant.load import block_linears, check_bitsandbytes, four_bit_weight
from pefteach.workshop.parity.compare import shake
from pefteach.workshop.parity.families import make, make_batch
from quant import peer

FAMILIES = ("ours", "llama", "gpt2", "bert", "t5")


def four_bit(model):
    return {path for path, module in model.named_modules() if four_bit_weight(module) is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_blocks_go_to_4_bits_and_the_rest_stays(family):
    model, batch = make(family), make_batch(family)
    wanted = {p for p, m in model.named_modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"}
    outside = {path for path in wanted if not any(part.isdigit() for part in path.split("."))}
    if family == "t5":
        outside |= {path for path in wanted if path.endswith(".wo")}  # transformers keeps it in high precision
    before = {name: p.clone() for name, p in model.named_parameters()}
    exact = model(**batch).logits
    assert quantise(model) is model
    assert four_bit(model) == wanted - outside and outside
    for name, parameter in model.named_parameters():  # embeddings, norms, biases, head: what is left
        assert name.endswith(".packed") or torch.equal(parameter, before[name])
    error = (model(**batch).logits - exact).square().mean() / exact.square().mean()
    assert 0 < error < 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_both_back_ends_give_the_same_numbers(family):
    batch = make_batch(family)
    ours = quantise(make(family), double_quantisation=False)
    theirs = quantise(make(family), "bitsandbytes", double_quantisation=False)
    assert four_bit(ours) == four_bit(theirs)
    torch.testing.assert_close(ours(**batch).logits, theirs(**batch).logits, rtol=1e-4, atol=1e-5)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, tensor in theirs.state_dict().items():
        if "quant_state" not in key:
            assert torch.equal(ours.state_dict()[key], tensor), key


@pytest.mark.parametrize("family", ["ours", "gpt2"])
def test_a_model_takes_the_other_back_ends_state_dict(family):
    batch = make_batch(family)
    theirs = quantise(make(family), "bitsandbytes")
    ours = quantise(make(family), quant_type="fp4")
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(**batch).logits, theirs(**batch).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["ours", "llama", "gpt2"])
def test_lora_learns_alike_on_both_back_ends(family):
    batch = make_batch(family)
    losses = []
    for backend in ("pefteach", "bitsandbytes"):
        model = quantise(make(family), backend, double_quantisation=False)
        torch.manual_seed(0)
        losses.append(train_by_hand(model, attach(model, LoRA(3, 7.0, "all-linear")), batch, steps=20))
    ours, theirs = losses
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert ours[-1] < 0.7 * ours[0]


@pytest.mark.parametrize("backend", ["pefteach", "bitsandbytes"])
@pytest.mark.parametrize("family", ["ours", "gpt2"])
def test_merging_is_into_a_dequantised_copy(family, backend):
    batch = make_batch(family)
    model = quantise(make(family), backend)
    bare = model(**batch).logits
    adapter = attach(model, LoRA(3, 7.0, "all-linear"))
    shake(adapter.trained_tensors())
    wanted = model(**batch).logits
    with pytest.raises(ValueError, match=r"is in few bits: call pefteach.quant.dequantise\(model\) first"):
        adapter.merge()
    torch.testing.assert_close(model(**batch).logits, wanted, rtol=0, atol=0)
    assert dequantise(model) is model and not four_bit(model)
    torch.testing.assert_close(model(**batch).logits, wanted)
    adapter.merge()
    torch.testing.assert_close(model(**batch).logits, wanted, rtol=1e-4, atol=1e-5)
    detach(model)
    torch.testing.assert_close(model(**batch).logits, bare, rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for path in block_linears(model) for p in [model.get_submodule(path).weight])


@pytest.mark.parametrize("backend", ["pefteach", "bitsandbytes"])
def test_what_would_train_the_4_bits_is_refused(backend):
    model = quantise(make("llama"), backend)
    for method in (FullFineTuning(), LastLayers(1)):
        with pytest.raises(ValueError, match=r"would train model\.layers\.\d.*, which is in few bits"):
            attach(model, method)
    attach(model, BitFit(add_to=["q_proj"]))  # a new bias beside a packed weight is a float
    assert model.model.layers[0].self_attn.q_proj.bias.dtype == torch.float32
    assert model(**make_batch("llama")).logits.isfinite().all()


def test_dora_needs_a_weight_that_it_can_read():
    batch, method = make_batch("llama"), DoRA(3, 7.0, "all-linear")
    with pytest.raises(ValueError, match="the weight is packed in few bits: quantise with"):
        attach(quantise(make("llama"), "bitsandbytes"), method)
    model = quantise(make("llama"))
    bare = model(**batch).logits
    attach(model, method)
    torch.testing.assert_close(model(**batch).logits, bare, rtol=1e-4, atol=1e-5)


def test_counts_the_numbers_and_not_the_bytes():
    for backend in ("pefteach", "bitsandbytes"):
        assert count_parameters(quantise(make("llama"), backend)).total == count_parameters(make("llama")).total


def test_detaching_leaves_the_4_bit_base_as_it_was():
    model, batch = quantise(make("ours")), make_batch("ours")
    before, state = model(**batch).logits, snapshot(model)
    attach(model, LoRA())
    detach(model)
    assert torch.equal(model(**batch).logits, before)
    assert same(model, state)


def test_the_base_that_ships():
    model, _ = load_base()
    bits = [layer.quantised.bits_per_parameter for _, layer in quantise(model).named_modules() if is_ours(layer)]
    assert bits and all(4.125 < b < 4.2 for b in bits)  # small layers: the last group of scales is short


def is_ours(layer):
    return isinstance(layer, Linear4bit)


def test_refusals():
    with pytest.raises(ValueError, match="no back end is called 'gptq': choose one of pefteach, bitsandbytes"):
        quantise(make("ours"), "gptq")
    with pytest.raises(ValueError, match="quant_type must be 'nf4' or 'fp4', not 'int4'"):
        quantise(make("ours"), quant_type="int4")
    with pytest.raises(ValueError, match="in 4 bits already"):
        quantise(quantise(make("ours")))
    with pytest.raises(ValueError, match="in 4 bits already"):
        quantise(quantise(make("ours"), "bitsandbytes"))
    with pytest.raises(ValueError, match="no layer of this model is in 4 bits"):
        dequantise(make("ours"))
    with pytest.raises(ValueError, match="no blocks with linear layers"):
        quantise(nn.Sequential(nn.Linear(2, 2)))
    model = make("ours")
    attach(model, LoRA())
    with pytest.raises(ValueError, match="has adapters: quantise it first"):
        quantise(model)
    model = make("ours")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 4] = torch.nan
    with pytest.raises(ValueError, match=r"cannot quantise model.layers.1.mlp.down_proj: .* NaN"):
        quantise(model)


# --- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    pytest.importorskip("accelerate")
    make("llama").save_pretrained(tmp_path)
    return tmp_path


def test_a_checkpoint_opens_in_4_bits(checkpoint):
    batch = make_batch("llama")
    theirs = load_in_4bit(str(checkpoint), compute_dtype=torch.float32, double_quantisation=False).cpu()
    ours = quantise(make("llama"), double_quantisation=False)
    assert four_bit(theirs) == four_bit(ours)
    assert all(four_bit_weight(m).quant_type == "nf4" for m in theirs.modules() if four_bit_weight(m) is not None)
    torch.testing.assert_close(theirs(**batch).logits, ours(**batch).logits, rtol=1e-4, atol=1e-5)


def test_transformers_saves_and_ours_loads(checkpoint, tmp_path):
    from safetensors.torch import load_file

    theirs = load_in_4bit(str(checkpoint), compute_dtype=torch.float32)
    theirs.save_pretrained(tmp_path / "4bit")
    tensors = load_file(tmp_path / "4bit" / "model.safetensors")
    ours = quantise(make("llama"), quant_type="fp4")
    ours.load_state_dict(tensors)
    batch = make_batch("llama")
    torch.testing.assert_close(ours(**batch).logits, theirs.cpu()(**batch).logits, rtol=1e-4, atol=1e-5)


# --- bitsandbytes' faults on AVX-512 (H1, H2) -----------------------------------------------------------------------


def gradients_after_an_evaluation(model):
    """Input gradients of the lowest 4-bit layer, and its output, before and after one forward pass in eval mode."""
    layer = next(m for m in model.modules() if four_bit_weight(m) is not None)
    found = []
    for _ in range(2):
        x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = layer.train()(x)
        y.sum().backward()
        found.append((y.detach(), x.grad))
        with torch.no_grad():
            layer.eval()(torch.randn(3, layer.in_features))
    return found


def test_the_guard_keeps_gradients_flowing_after_an_evaluation():
    model = quantise(make("llama"), "bitsandbytes")
    (y, dx), (y_after, dx_after) = gradients_after_an_evaluation(model)
    assert torch.equal(y, y_after) and torch.equal(dx, dx_after)


@pytest.mark.filterwarnings("ignore:bitsandbytes..gemv_4bit")
def test_without_the_guard_they_do_not():
    """Any processor can repack the weight, but only one with AVX512-BF16 has the kernel for the result."""
    model = quantise(make("llama"), "bitsandbytes")
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = True  # as it is on such a processor
    try:
        (_, dx), (_, dx_after) = gradients_after_an_evaluation(model)
    except RuntimeError:  # a kernel that this processor lacks
        return
    assert dx_after is None or not torch.allclose(dx, dx_after)


def with_h1(monkeypatch):
    """Let bitsandbytes take its scales as its AVX-512 kernel does: row * (in // block) + column // block."""

    def wrong(packed, state):
        rows, columns = state.shape
        levels = peer.bnb.functional.get_4bit_type(state.quant_type, "cpu")
        codes = torch.stack([packed.view(-1) >> 4, packed.view(-1) & 15], 1).view(-1).int()[: rows * columns]
        row, column = torch.arange(rows)[:, None], torch.arange(columns)
        scales = peer.scales(state)[row * (columns // state.blocksize) + column // state.blocksize]
        return (levels[codes].view(rows, columns) * scales).to(state.dtype)

    monkeypatch.setattr(peer.bnb.functional, "dequantize_4bit", wrong)


def test_rows_that_are_not_whole_blocks_are_refused_where_bitsandbytes_gets_them_wrong(monkeypatch):
    with_h1(monkeypatch)
    quantise(make("llama"), "bitsandbytes")  # 64 and 128 inputs: whole blocks
    with pytest.raises(ValueError, match=r"dequantises model.layers.0.self_attn.q_proj .* wrongly on this machine"):
        quantise(make("llama"), "bitsandbytes", block_size=128)
    quantise(make("llama"), block_size=128)  # our own has no such fault


def test_the_guard_leaves_other_models_alone():
    model = make("ours")
    assert check_bitsandbytes(model) is model


def test_dequantises_inside_a_module_that_an_adapter_wraps():
    model, batch = quantise(make("llama")), make_batch("llama")
    shake(attach(model, HoulsbyAdapters(7)).trained_tensors())
    before = model(**batch).logits
    dequantise(model)
    assert not four_bit(model)
    torch.testing.assert_close(model(**batch).logits, before, atol=1e-5, rtol=1e-5)
    detach(model)
    assert type(model.model.layers[0].mlp.down_proj) is nn.Linear
