"""A model's weights through every grid and back."""

import pytest
import torch

from pefteach.quant import quantise
from pefteach.quant.damage import GRIDS, quantised_and_back
from pefteach.quant.load import block_linears
from pefteach.workshop.parity.families import make, make_batch


@pytest.mark.parametrize("family", ["ours", "gpt2"])
@pytest.mark.parametrize("grid", GRIDS)
def test_only_the_linear_layers_of_the_blocks_are_rounded(family, grid):
    model = make(family)
    before = {name: p.clone() for name, p in model.named_parameters()}
    other = quantised_and_back(model, grid)
    rounded = {f"{path}.weight" for path in block_linears(model)}
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in rounded)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("name, quant_type", [("NF4", "nf4"), ("FP4", "fp4")])
def test_four_bits_are_those_of_the_4_bit_layer(name, quant_type):
    model, batch = make("llama"), make_batch("llama")
    four_bit = quantise(make("llama"), quant_type=quant_type, double_quantisation=False, block_size=32)
    torch.testing.assert_close(quantised_and_back(model, name, block=32)(**batch).logits, four_bit(**batch).logits)
    assert not torch.allclose(quantised_and_back(model, name)(**batch).logits, four_bit(**batch).logits)


def test_the_grids_have_as_many_values_in_a_block_as_they_say():
    weight = torch.randn(1, 64)
    for name, most in {"8 bit": 255, "NF4": 16, "FP4": 16, "INT4": 15, "3 bit": 7, "2 bit": 3}.items():
        assert len(GRIDS[name](weight, 64).dequantise().unique()) <= most
    with pytest.raises(KeyError):
        quantised_and_back(make("ours"), "1 bit")
