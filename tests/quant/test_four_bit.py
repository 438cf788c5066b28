"""4-bit tensors equal bitsandbytes', and refuse what has no scale."""

import pytest
import torch

from helpers import DEVICES
from pefteach.quant import blockwise, codebook, derive_dynamic, derive_nf4, quantise_4bit
from pefteach.quant.blockwise import boundaries
from quant import checks, peer


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_equals_bitsandbytes(check):
    check()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape, block_size", [((64, 128), 64), ((40, 192), 32), ((3, 5, 256), 256), ((512, 1024), 64)])
def test_codes_are_bitsandbytes_own(device, dtype, shape, block_size):
    """Bit for bit on a CPU. Its CUDA kernel divides to the last bit but one; values that lie that near to the middle
    between two levels, and no others, may then take the other level."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(block_size)).to(dtype).to(device)
    ours, (packed, state) = quantise_4bit(x, block_size=block_size), peer.quantised(x, block_size=block_size)
    assert torch.equal(ours.absmax, state.absmax)
    mine, other = (torch.stack([t.view(-1) >> 4, t.view(-1) & 15], 1).view(-1).int() for t in (ours.packed, packed))
    differs = mine != other
    assert not differs.any() or device == "cuda"
    scaled = (x.float().view(-1, block_size) / ours.absmax[:, None]).view(-1)[differs]
    middle = boundaries("nf4", x.device)[0][torch.minimum(mine, other)[differs].long()]
    assert ((mine - other)[differs].abs() == 1).all() and ((scaled - middle).abs() < 4e-7).all()
    alike = ours.dequantise().view(-1) == peer.dequantised(packed, state).view(-1)
    assert (alike | differs).all()


@pytest.mark.parametrize("device", DEVICES)
def test_quantised_scales_are_bitsandbytes_own(device):
    """Codes differ by one at most: bitsandbytes looks them up in 65,536 bins, and a GPU sums in another order."""
    x = torch.randn(300, 256, generator=torch.Generator().manual_seed(0)).to(device)
    ours, (_, state) = quantise_4bit(x, double_quantisation=True), peer.quantised(x, double=True)
    torch.testing.assert_close(ours.absmax.offset, state.offset.view(()), rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.absmax.absmax, state.state2.absmax, rtol=1e-5, atol=1e-6)
    apart = (ours.absmax.codes.int() - state.absmax.int()).abs()
    assert apart.max() <= 1 and (apart > 0).float().mean() < 0.02


def test_there_are_enough_tensors_of_every_sort():
    found = checks.tensors()
    assert len(found) >= 50
    assert {x.dim() for _, x, _ in found} == {1, 2, 3}
    assert {x.dtype for _, x, _ in found} == set(checks.DTYPES)
    assert {size for _, _, size in found} == set(checks.BLOCK_SIZES)
    assert {x.numel() % 2 for _, x, _ in found} == {0, 1}
    assert any(0 < x.abs().max() < torch.finfo(x.dtype).tiny for _, x, _ in found)


def test_the_levels():
    assert torch.equal(codebook("nf4"), peer.bnb.functional.get_4bit_type("nf4", "cpu"))
    assert torch.equal(codebook("fp4"), peer.bnb.functional.get_4bit_type("fp4", "cpu"))
    assert torch.equal(codebook("dynamic"), peer.bnb.functional.create_dynamic_map())
    torch.testing.assert_close(derive_nf4(), codebook("nf4"), rtol=0, atol=5e-7)
    assert torch.equal(derive_dynamic(), codebook("dynamic"))
    with pytest.raises(ValueError, match="no code book is called 'nf3': choose one of nf4, fp4, dynamic"):
        codebook("nf3")


def test_the_first_of_a_pair_is_in_the_high_half():
    assert quantise_4bit(torch.tensor([1.0, -1.0])).packed.tolist() == [[0xF0]]
    assert quantise_4bit(torch.tensor([0.0, 0.0, 1.0])).packed.tolist() == [[0x77], [0xF7]]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_more_values_than_one_piece(threads):
    x = torch.randn(3, 500_001)
    packed, state = peer.quantised(x)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = quantise_4bit(x)
        with torch.inference_mode():
            values = ours.dequantise()
        x[2, 500_000] = torch.nan
        with pytest.raises(ValueError, match="NaN"):
            quantise_4bit(x)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(ours.packed, packed) and torch.equal(ours.absmax, state.absmax)
    assert torch.equal(values, peer.dequantised(packed, state))


@pytest.mark.parametrize("block_size", [1, 3, 48, 65, 100_000])
def test_any_block_size_comes_back_within_half_a_level(block_size):
    x = torch.randn(7, 301)
    ours = quantise_4bit(x, block_size=block_size)
    scale = ours.absmax.repeat_interleave(block_size)[: x.numel()].view(x.shape)
    assert ((ours.dequantise() - x).abs() <= 0.153 * scale).all()  # the widest gap is from -1 to -0.696
    assert ours.absmax.numel() == -(-x.numel() // block_size)


@pytest.mark.parametrize("n", [15, 255])
def test_both_ways_of_counting_agree(n):
    edges = torch.randn(n).sort().values
    x = torch.cat([edges, torch.randn(1000), edges.nextafter(torch.tensor(9.0))])
    assert torch.equal(blockwise.count_below(x, edges), torch.bucketize(x, edges).to(torch.uint8))


def test_a_transposed_view_is_what_it_looks_like():
    x = torch.randn(40, 70).T
    assert torch.equal(quantise_4bit(x).packed, quantise_4bit(x.contiguous()).packed)


def test_in_another_precision_the_product_is_rounded_once():
    ours = quantise_4bit(torch.randn(64, 70).bfloat16())
    assert ours.dequantise().dtype == torch.bfloat16
    assert torch.equal(ours.dequantise(torch.float32).bfloat16(), ours.dequantise())


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 100, -1])
def test_what_is_not_finite_is_refused(bad, dtype, place):
    x = torch.randn(7, 29).to(dtype)
    x.view(-1)[place] = bad
    with pytest.raises(ValueError, match="cannot quantise NaN or infinite values"):
        quantise_4bit(x)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: quantise_4bit(torch.ones(3, dtype=torch.float64)), "can only quantise float32, float16 or bfloat16"),
        (lambda: quantise_4bit(torch.ones(3, dtype=torch.int32)), "can only quantise .* not torch.int32"),
        (lambda: quantise_4bit(torch.ones(0, 4)), r"cannot quantise an empty tensor, .* shape \(0, 4\)"),
        (lambda: quantise_4bit(torch.ones(3), "int4"), "quant_type must be 'nf4' or 'fp4', not 'int4'"),
        (lambda: quantise_4bit(torch.ones(3), block_size=0), "block_size must be at least 1, not 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
