"""Uniform grids against their formulas, group by group."""

import pytest
import torch

from pefteach.quant import absmax_grid, zero_point_grid
from pefteach.quant.packing import pack, pack_pairs, unpack

GROUPS = {"tensor": 5 * 37, "row": 37, 16: 16}


def groups(x, per):
    return x.float().reshape(-1).split(GROUPS[per])


@pytest.mark.parametrize("per", GROUPS)
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_absmax(bits, per, dtype):
    x = (torch.randn(5, 37, generator=torch.Generator().manual_seed(bits)) * 3).to(dtype)
    ours = absmax_grid(x, bits, per)
    largest, expected = 2 ** (bits - 1) - 1, []
    for group in groups(x, per):
        scale = group.abs().max() / largest
        expected.append((group / scale).round() * scale)
    assert torch.equal(ours.dequantise(), torch.cat(expected).view(x.shape).to(dtype))
    assert ours.codes.shape == x.shape
    ends = {1, 2**bits - 1}  # the largest magnitude takes the first or the last code; code 0 is not used
    assert ours.codes.min() >= 1 and ends & {ours.codes.min().item(), ours.codes.max().item()}


@pytest.mark.parametrize("per", GROUPS)
@pytest.mark.parametrize("bits", range(2, 9))
def test_zero_point(bits, per):
    x = torch.rand(5, 37, generator=torch.Generator().manual_seed(bits)) * 4 - 1
    x[2, 3] = 0
    ours = zero_point_grid(x, bits, per)
    for before, after, codes in zip(groups(x, per), groups(ours.dequantise(), per), groups(ours.codes, per)):
        low, high = min(before.min(), 0), max(before.max(), 0)
        step = (high - low) / (2**bits - 1)
        assert (before - after).abs().max() <= step * 0.5001 + step * (bits == 2)  # zero's own rounding at the ends
        assert len(codes.unique()) <= 2**bits
    assert ours.dequantise()[2, 3] == 0, "zero has no code of its own"


def test_a_zero_point_pays_where_no_value_is_negative():
    x = torch.rand(64, 64)
    error = lambda grid: (grid.dequantise() - x).square().mean()
    assert error(zero_point_grid(x, 4)) < 0.35 * error(absmax_grid(x, 4))  # half the step: a quarter of the error


def test_an_outlier_spoils_its_own_group_only():
    x = torch.randn(8, 64)
    x[0, 0] = 1000
    error = lambda per: (absmax_grid(x, 8, per).dequantise() - x)[1:].abs().mean()
    assert error("tensor") > 20 * error("row") > 20 * error(64) * 0.99


@pytest.mark.parametrize("grid", [absmax_grid, zero_point_grid])
@pytest.mark.parametrize("value", [0.0, 0.3, -0.3, 1e-45, 3e-44])
def test_constants(grid, value):
    x = torch.full((3, 5), value)
    torch.testing.assert_close(grid(x, 8, "row").dequantise(), x, rtol=0.005, atol=1e-43)


def test_halves_round_to_even():
    assert absmax_grid(torch.tensor([7.0, 0.5, 1.5, 2.5]), 4).codes.tolist() == [15, 8, 10, 10]


@pytest.mark.parametrize("bits", range(2, 9))
def test_bits_are_what_is_stored(bits):
    x = torch.randn(64, 128)
    assert absmax_grid(x, bits, 64).bits_per_parameter == bits + 32 / 64
    assert zero_point_grid(x, bits, 64).bits_per_parameter == bits + 40 / 64
    assert absmax_grid(x, bits).bits_per_parameter == bits + 32 / x.numel()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63])
def test_packing_there_and_back(bits, n):
    codes = torch.randint(2**bits, (n,), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert len(packed) == -(-n * bits // 8)
    assert torch.equal(unpack(packed, bits, n), codes)


def test_packing_puts_the_first_code_highest():
    assert pack(torch.tensor([1, 2, 3], dtype=torch.uint8), 2).tolist() == [0b01101100]
    assert pack(torch.tensor([5, 3, 7], dtype=torch.uint8), 3).tolist() == [0b10101111, 0b10000000]
    assert pack_pairs(torch.tensor([1, 2, 15], dtype=torch.uint8)).tolist() == [0x12, 0xF0]


@pytest.mark.parametrize("grid", [absmax_grid, zero_point_grid])
@pytest.mark.parametrize(
    "x, bits, per, message",
    [
        (torch.ones(3), 1, "row", "bits must be 2 to 8, not 1"),
        (torch.ones(3), 9, "row", "bits must be 2 to 8, not 9"),
        (torch.ones(3), 4, "column", "per must be 'tensor', 'row' or a block size of at least 1, not 'column'"),
        (torch.ones(3), 4, 0, "per must be .* not 0"),
        (torch.ones(0), 4, "row", "cannot quantise an empty tensor"),
        (torch.ones(3, dtype=torch.float64), 4, "row", "not torch.float64"),
        (torch.tensor([1.0, float("nan")]), 4, "row", "NaN or infinite"),
        (torch.tensor([1.0, float("-inf")]), 4, "row", "NaN or infinite"),
    ],
)
def test_refusals(grid, x, bits, per, message):
    with pytest.raises(ValueError, match=message):
        grid(x, bits, per)
