"""The 4-bit layer against bitsandbytes' layer, and its state dict in bitsandbytes' layout."""

import copy
import json

import pytest
import torch
from torch import nn

from pefteach.quant import Linear4bit, quantise_4bit
from quant import peer

# H1: in bitsandbytes' own forward pass the rows must be whole blocks, on processors with AVX-512.
FAN_IN, FAN_OUT = 128, 96


def linear(fan_in=FAN_IN, fan_out=FAN_OUT, bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(fan_in, fan_out, bias).to(dtype)


def run(layer, x, dy):
    """Output, and gradients of the input and of the bias."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(dy)
    return y.detach(), x.grad, layer.bias.grad


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype, compute_dtype", [
    (torch.float32, None), (torch.bfloat16, None), (torch.float32, torch.bfloat16), (torch.float16, torch.float32),
])  # fmt: skip
def test_forward_and_backward_are_bitsandbytes(quant_type, dtype, compute_dtype):
    base, x, dy = linear(), torch.randn(3, 5, FAN_IN).to(dtype), torch.randn(3, 5, FAN_OUT).to(dtype)
    theirs = peer.layer(base, quant_type, compute_dtype=compute_dtype)
    ours = Linear4bit.from_linear(
        copy.deepcopy(base), quant_type, double_quantisation=False, compute_dtype=compute_dtype
    )
    theirs.bias.requires_grad_()
    close = {} if dtype == torch.float32 == (compute_dtype or dtype) else {"rtol": 0.02, "atol": 0.02}
    got, expected = run(ours, x, dy), run(theirs, x, dy)
    torch.testing.assert_close(got[0], expected[0], **close)
    torch.testing.assert_close(got[1], expected[1], **close)
    # bitsandbytes forms the bias's gradient over the first dimension only, which for (3, 5, out) fails or misleads
    torch.testing.assert_close(got[2].float(), dy.float().sum((0, 1)), rtol=0.02, atol=0.05)


def test_the_formulas_where_blocks_cross_rows():
    layer = Linear4bit.from_linear(linear(40, 27))
    x, dy = torch.randn(2, 3, 40), torch.randn(2, 3, 27)
    y, dx, db = run(layer, x, dy)
    torch.testing.assert_close(y, x @ layer.weight.T + layer.bias)
    torch.testing.assert_close(dx, dy @ layer.weight)
    torch.testing.assert_close(db, dy.sum((0, 1)))


def test_the_base_gets_no_gradient_and_is_kept_in_4_bits():
    layer = Linear4bit.from_linear(linear(512, 512, bias=False))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        y = layer(torch.randn(4, 512, requires_grad=True))
    assert sum(kept) == 0, "the full weight, or its input, waits for the backward pass"
    assert [(name, p.dtype, p.requires_grad) for name, p in layer.named_parameters()] == [
        ("packed", torch.uint8, False)
    ]
    assert not layer.weight.requires_grad
    y.sum().backward()
    assert layer.quantised.nbytes < 512 * 512 * 4.13 / 8


def test_evaluation_leaves_training_as_it_was():
    """bitsandbytes' layer changes in evaluation on processors with AVX512-BF16, unless told not to (H2)."""
    layer, x, dy = Linear4bit.from_linear(linear()), torch.randn(2, FAN_IN), torch.randn(2, FAN_OUT)
    before = run(layer, x, dy)
    layer.eval()
    with torch.no_grad():
        layer(x)
    layer.train()
    layer.bias.grad = None
    for one, two in zip(before, run(layer, x, dy)):
        assert torch.equal(one, two)


@pytest.mark.parametrize("change", ["half", "bfloat16", "double"])
def test_a_change_of_precision_leaves_the_scales_alone(change):
    layer = Linear4bit.from_linear(linear())
    weight = layer.quantised.dequantise(torch.float32)
    getattr(layer, change)()
    assert layer.quantised.absmax.absmax.dtype == torch.float32
    assert torch.equal(layer.quantised.dequantise(torch.float32), weight)
    assert layer.bias.dtype != torch.float32


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_state_dict_is_bitsandbytes(quant_type, double, dtype):
    theirs = peer.layer(linear(dtype=dtype), quant_type, double).state_dict()
    ours = Linear4bit.from_linear(linear(dtype=dtype), quant_type, double_quantisation=double).state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert tensor.shape == theirs[key].shape and tensor.dtype == theirs[key].dtype, key
    facts = f"weight.quant_state.bitsandbytes__{quant_type}"
    assert json.loads(bytes(ours[facts].tolist())) == json.loads(bytes(theirs[facts].tolist()))
    equal = {"weight.quant_map", "weight.nested_quant_map", "weight.nested_absmax"} & ours.keys()
    equal |= ({"weight"} if quant_type == "nf4" else set()) | (set() if double else {"weight.absmax"})
    assert all(torch.equal(ours[key], theirs[key]) for key in equal)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_loads_theirs(quant_type, double):
    theirs = peer.layer(linear(), quant_type, double)
    ours = Linear4bit.from_linear(linear())  # other numbers, another type
    ours.quantised = quantise_4bit(torch.randn(FAN_OUT, FAN_IN))
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.weight, peer.dequantised(theirs.weight.data, theirs.weight.quant_state))
    assert ours.quantised.quant_type == quant_type


@pytest.mark.parametrize("double", [False, True])
def test_they_load_ours(double):
    ours = Linear4bit.from_linear(linear(), double_quantisation=double)
    state = ours.state_dict()
    stats = {key: value for key, value in state.items() if key.startswith("weight.")}
    theirs = peer.bnb.nn.Params4bit.from_prequantized(state["weight"], stats, device="cpu")
    assert torch.equal(ours.weight, peer.dequantised(theirs.data, theirs.quant_state))


def test_what_does_not_fit_is_refused_and_changes_nothing():
    layer = Linear4bit.from_linear(linear())
    good, weight = layer.state_dict(), layer.weight
    facts = "weight.quant_state.bitsandbytes__nf4"
    other = {**good, "weight.quant_map": good["weight.quant_map"] * 0.9}
    for state, message in [
        ({key: value for key, value in good.items() if key != "weight.absmax"}, "not a 4-bit tensor as bitsandbytes"),
        ({key: value for key, value in good.items() if key != facts}, "no quant_state"),
        ({**good, facts: torch.tensor(list(b"{"), dtype=torch.uint8)}, "not a 4-bit tensor"),
        (other, "its code book is not the nf4"),
        ({**good, "weight": good["weight"][1:]}, "does not fit its 6143 bytes of codes"),
        (Linear4bit.from_linear(linear(64, 96)).state_dict(), r"it is \(96, 64\), and this layer is \(96, 128\)"),
        ({"bias": good["bias"]}, "Missing key.*weight"),
        ({**good, "wait": good["bias"]}, "Unexpected key.*wait"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            layer.load_state_dict(state)
        assert torch.equal(layer.weight, weight)


def test_says_what_it_is():
    said = repr(Linear4bit.from_linear(linear()))
    assert "in_features=128, out_features=96, bias=True, nf4, blocks of 64, 4.1" in said
