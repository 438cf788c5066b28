"""What must hold of block-wise 4-bit quantisation; the tests run it, and the wrong implementations must fail it."""

import torch

from pefteach.quant import quantise_4bit
from quant import peer

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
SHAPES = (
    (1,), (2,), (63,), (64,), (65,), (4095,), (8192,), (10_001,),
    (4, 40), (3, 7), (40, 64), (64, 96), (17, 130), (100, 41), (1, 4096), (2, 4097),
    (2, 3, 5), (3, 5, 64), (7, 11, 13), (2, 8, 129),
)  # fmt: skip


def tensors():
    """Tensors of every shape, precision and block size, and of every special case: (name, tensor, block size)."""
    rng = torch.Generator().manual_seed(0)
    found = []
    for i, shape in enumerate(SHAPES):
        for j, dtype in enumerate(DTYPES):
            block_size = BLOCK_SIZES[(3 * i + j) % len(BLOCK_SIZES)]
            found.append((f"normal {shape}", torch.randn(shape, generator=rng).to(dtype) * 0.02, block_size))
    for dtype in DTYPES:
        x = torch.randn(33, 70, generator=rng)
        with_zeros = x.clone()
        with_zeros[5:12] = 0  # whole blocks of zeros among others
        ties = torch.cat([torch.ones(1), MIDPOINTS, MIDPOINTS.nextafter(torch.ones(1)), torch.zeros(33)])
        found += [
            ("zeros", torch.zeros(33, 70, dtype=dtype), 32),
            ("one zero", torch.zeros(1, dtype=dtype), 64),
            ("some zeros", with_zeros.to(dtype), 64),
            ("constant", torch.full((5, 13), -0.37, dtype=dtype), 32),
            ("one value", torch.tensor([3.5], dtype=dtype), 64),
            ("subnormal", (x * 1e-39).to(dtype), 64),
            ("subnormal, half", (x * 1e-7).to(dtype), 128),
            ("large", (x * 1e4).to(dtype), 64),
            ("outliers", (x**9).clamp(-6e4, 6e4).to(dtype), 128),
            ("an even grid", torch.linspace(-1, 1, 1000).to(dtype), 1024),
            ("ties", ties.to(dtype), 64),
        ]
    return found


MIDPOINTS = peer.bnb.functional.get_4bit_type("nf4", "cpu").unfold(0, 2, 1).mean(1)


def check_nf4_is_bit_identical():
    for name, x, block_size in tensors():
        ours = quantise_4bit(x, "nf4", block_size)
        packed, state = peer.quantised(x, "nf4", block_size)
        where = (name, tuple(x.shape), x.dtype, block_size)
        assert torch.equal(ours.packed, packed), where
        assert torch.equal(ours.absmax, state.absmax) and ours.absmax.dtype == torch.float32, where
        theirs = peer.dequantised(packed, state)
        assert torch.equal(ours.dequantise(), theirs) and ours.dequantise().dtype == x.dtype, where


def check_ties_go_to_the_lower_level():
    """A value halfway between two levels takes the lower one, and the next float above it the upper one."""
    just_above = MIDPOINTS.nextafter(torch.ones(15))
    packed = quantise_4bit(torch.cat([torch.ones(1), MIDPOINTS, torch.ones(1), just_above]), "nf4", 32).packed
    codes = torch.cat([packed >> 4, packed & 15], 1).view(2, 16)[:, 1:]
    assert torch.equal(codes[0].int(), torch.arange(15).int())
    assert torch.equal(codes[1].int(), torch.arange(1, 16).int())


def check_fp4_has_equal_values():
    for name, x, block_size in tensors():
        ours = quantise_4bit(x, "fp4", block_size)
        packed, state = peer.quantised(x, "fp4", block_size)
        where = (name, tuple(x.shape), x.dtype, block_size)
        assert torch.equal(ours.absmax, state.absmax), where
        assert torch.equal(ours.dequantise(), peer.dequantised(packed, state)), where


def check_double_quantisation_has_equal_values():
    """bitsandbytes looks the 8-bit code up in 65,536 bins, so its code may be the neighbour of the nearest."""
    for shape, block_size in (((512, 512), 64), ((333, 77), 64), ((64, 2000), 32), ((3, 5, 4097), 128)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.02
        exact = quantise_4bit(x, "nf4", block_size).absmax
        ours = quantise_4bit(x, "nf4", block_size, double_quantisation=True)
        packed, state = peer.quantised(x, "nf4", block_size, double=True)
        assert torch.equal(ours.packed, packed)  # the codes come from the exact scales
        assert torch.equal(ours.absmax.offset, state.offset)
        assert torch.equal(ours.absmax.absmax, state.state2.absmax)
        steps = (ours.absmax.codes.int() - state.absmax.int()).abs()
        assert steps.max() <= 1 and (steps > 0).float().mean() < 0.02
        theirs = peer.scales(state)
        error, their_error = (ours.absmax.expand() - exact).abs(), (theirs - exact).abs()
        assert (error <= their_error + 1e-9).all()
        assert (error / exact).mean() < 0.004
        torch.testing.assert_close(ours.dequantise(), peer.dequantised(packed, state), rtol=0.02, atol=0)


def check_bits_per_parameter():
    x = torch.randn(512, 512)
    assert quantise_4bit(x).bits_per_parameter == 4.5
    with_double = quantise_4bit(x, double_quantisation=True).bits_per_parameter
    assert with_double == 4 + 8 / 64 + 32 / (64 * 256) + 32 / x.numel()  # the last is the offset
    assert round(with_double, 3) == 4.127


CHECKS = (
    check_nf4_is_bit_identical,
    check_ties_go_to_the_lower_level,
    check_fp4_has_equal_values,
    check_double_quantisation_has_equal_values,
    check_bits_per_parameter,
)
