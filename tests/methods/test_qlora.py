"""The recipe: what is in 4 bits, what trains and in which precision; against bitsandbytes with peft."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from helpers import DEVICES
from pefteach.memory import SavedActivations
from pefteach.methods import attached, detach
from pefteach.methods.qlora import norms_in_float32, prepare_qlora
from pefteach.model.modules import base_modules
from pefteach.model.recompute import recompute_blocks
from pefteach.quant import quantise
from pefteach.quant.load import block_linears, four_bit_weight
from pefteach.workshop.parity.compare import shake
from pefteach.workshop.parity.families import make, make_batch


def loss_of(model, batch):
    logits = model(**batch).logits[:, :-1].float()
    return cross_entropy(logits.flatten(0, 1), batch["input_ids"][:, 1:].flatten())


@pytest.mark.parametrize("family", ["ours", "llama", "gpt2"])
def test_every_linear_layer_of_the_blocks_is_in_4_bits_with_lora_beside_it(family):
    model, batch = make(family), make_batch(family)
    four_bit = copy.deepcopy(model)
    quantise(four_bit)
    adapter = prepare_qlora(model, 3, 7.0)
    layers = block_linears(model)
    assert all(four_bit_weight(layer).quant_type == "nf4" for layer in layers.values())
    assert set(adapter.parts) == set(layers)
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trains and all(".parts." in name for name in trains)
    torch.testing.assert_close(model(**batch).logits, four_bit(**batch).logits)
    with pytest.raises(ValueError, match="rank must be between"):
        prepare_qlora(make(family), 3000)


@pytest.mark.parametrize("family", ["ours", "llama", "gpt2"])
def test_norms_compute_in_float32_in_a_16_bit_stream(family):
    model, batch = make(family).to(torch.bfloat16), make_batch(family)
    exact = {}
    norms = {path: m for path, m in base_modules(model) if "norm" in type(m).__name__.lower()}
    for path, norm in norms.items():
        norm.register_forward_hook(lambda m, i, o, path=path: exact.__setitem__(path, (i[0].detach(), o.detach())))
    adapter = prepare_qlora(model, 3, 7.0, lora_dtype=torch.bfloat16)
    assert {p.dtype for p in adapter.trained_tensors().values()} == {torch.bfloat16}
    assert norms and all(p.dtype == torch.float32 for norm in norms.values() for p in norm.parameters())
    copied = copy.deepcopy(model)
    logits = model(**batch).logits
    assert logits.dtype == torch.bfloat16 and torch.equal(copied(**batch).logits, logits)
    for path, norm in norms.items():
        x, y = exact[path]
        bare = copy.deepcopy(norm)
        bare._forward_hooks.clear()
        bare._forward_pre_hooks.clear()
        assert torch.equal(y.to(torch.bfloat16), bare(x.float()).to(torch.bfloat16)), path
        half = bare.to(torch.bfloat16)(x.to(torch.bfloat16))
        assert not torch.equal(y.float(), half.float()) or x.abs().max() == 0, "a norm in 16 bits would go unnoticed"


def test_a_32_bit_model_keeps_its_norms_as_they_are():
    model = make("llama")
    norms_in_float32(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def checkpointed(family="llama", **settings):
    model, batch = make(family).train(), make_batch(family)
    shake(prepare_qlora(model, 3, 7.0, **settings).trained_tensors())
    model.config.use_cache = False
    return model, batch


def test_checkpointing_keeps_less_and_gives_the_same_gradients():
    found = {}
    for checkpointing in (False, True):
        model, batch = checkpointed(checkpointing=checkpointing)
        with SavedActivations(model) as saved:
            loss = loss_of(model, batch)
        loss.backward()
        found[checkpointing] = saved.bytes, [p.grad for p in model.parameters() if p.requires_grad]
    (plain, ours), (small, again) = found[False], found[True]
    assert small < 0.5 * plain
    assert all(torch.equal(a, b) and a.abs().sum() > 0 for a, b in zip(ours, again))


@pytest.mark.filterwarnings("ignore")
def test_the_older_kind_gives_no_gradients_without_input_gradients():
    """PyTorch's older kind of checkpointing (reentrant) loses the gradients; the recipe's kind does not."""
    model, batch = checkpointed()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    assert not loss_of(model, batch).requires_grad
    model.enable_input_require_grads()
    loss_of(model, batch).backward()
    reentrant = [p.grad for p in model.parameters() if p.requires_grad]
    model, batch = checkpointed(checkpointing=True)
    loss_of(model, batch).backward()
    for a, b in zip(reentrant, [p.grad for p in model.parameters() if p.requires_grad]):
        torch.testing.assert_close(a, b)


def test_a_model_that_cannot_recompute_is_refused():
    with pytest.raises(ValueError, match="Decoder cannot recompute its blocks: train it without checkpointing"):
        recompute_blocks(make("ours"))


@pytest.mark.parametrize("device", DEVICES)
def test_twenty_steps_like_bitsandbytes_and_peft(device):
    """Both in float32; the same codes, as both quantise on the CPU, and the same start values for LoRA."""
    peft = pytest.importorskip("peft")
    batch, settings = {key: value.to(device) for key, value in make_batch("llama").items()}, dict(lr=1e-2)
    ours = make("llama").train()
    adapter = prepare_qlora(ours, 3, 7.0)
    theirs = quantise(make("llama"), "bitsandbytes", double_quantisation=True)
    theirs = peft.prepare_model_for_kbit_training(theirs, use_gradient_checkpointing=False)
    config = peft.LoraConfig(r=3, lora_alpha=7.0, target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(theirs, config).train()
    tensors = {key.replace(".weight", ".default.weight"): p for key, p in adapter.trained_tensors().items()}
    peers = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    assert peers.keys() == tensors.keys()
    with torch.no_grad():
        for key, p in peers.items():
            p.copy_(tensors[key])
    curves = []
    for model in (ours.to(device), theirs.to(device)):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **settings)
        losses = []
        for _ in range(20):
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    assert curves[0][-1] < 0.8 * curves[0][0]
    sixteen = make("llama").to(device)  # 4 bits are not 16: their loss is another from the start
    assert abs(loss_of(sixteen, batch).item() - curves[0][0]) > 1e-4


def test_detaching_leaves_the_4_bit_model():
    model, batch = quantise(make("llama")), make_batch("llama")
    before = model(**batch).logits
    shake(prepare_qlora(model, 3, 7.0).trained_tensors())
    assert not torch.equal(model(**batch).logits, before)
    assert list(attached(model)) == ["default"]
    detach(model)
    assert torch.equal(model(**batch).logits, before)
