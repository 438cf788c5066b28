"""bitsandbytes as a reference that is right on every machine."""

import pytest
import torch

bnb = pytest.importorskip("bitsandbytes")


def quantised(x, quant_type="nf4", block_size=64, double=False):
    """bitsandbytes' codes (bytes) and its state of them."""
    return bnb.functional.quantize_4bit(x, blocksize=block_size, quant_type=quant_type, compress_statistics=double)


def dequantised(packed, state):
    """bitsandbytes' values, dequantised as one row: its AVX-512 kernel is wrong where a block crosses rows (H1)."""
    shape, state.shape = state.shape, torch.Size([state.shape.numel()])
    values = bnb.functional.dequantize_4bit(packed, state).reshape(shape)
    state.shape = shape
    return values


def scales(state):
    """bitsandbytes' scales, dequantised if they are quantised."""
    if not state.nested:
        return state.absmax
    return bnb.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset


def layer(linear, quant_type="nf4", double=False, compute_dtype=None):
    """bitsandbytes' layer, with the CPU repacking off (H2)."""
    new = bnb.nn.Linear4bit(linear.in_features, linear.out_features, True, compute_dtype, double, quant_type)
    weight = linear.weight.detach().clone()
    new.weight = bnb.nn.Params4bit(weight, False, compress_statistics=double, quant_type=quant_type, module=new)
    new.bias = torch.nn.Parameter(linear.bias.detach().clone())
    new.to("cpu")  # this is when it quantises
    new.support_avx512bf16_for_cpu = False
    return new
