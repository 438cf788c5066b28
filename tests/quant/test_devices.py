"""Codes and scales against bitsandbytes on the same device: its CUDA kernels, or its code for a CPU."""

import pytest
import torch

from helpers import DEVICES
from pefteach.quant import quantise_4bit
from pefteach.quant.blockwise import boundaries
from quant import peer


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
    """As near as bitsandbytes looks a code up, in 65,536 bins; on a GPU the mean is summed in another order."""
    x = torch.randn(300, 256, generator=torch.Generator().manual_seed(0)).to(device)
    ours, (_, state) = quantise_4bit(x, double_quantisation=True), peer.quantised(x, double=True)
    torch.testing.assert_close(ours.absmax.offset, state.offset.view(()), rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.absmax.absmax, state.state2.absmax, rtol=1e-5, atol=1e-6)
    apart = (ours.absmax.codes.int() - state.absmax.int()).abs()
    assert apart.max() <= 1 and (apart > 0).float().mean() < 0.02
