"""What must hold of the Triton kernels on any device.

As a script, without a GPU: run the checks in Triton's interpreter, which carries out programs one after the other with
NumPy, and print what failed in each, as JSON. It has to be a process of its own, as TRITON_INTERPRET=1 has an effect
only before Triton is imported.
"""

import itertools
import json
from unittest import mock

import pytest
import torch

from pefteach.quant import quantise_4bit
from pefteach.quant.fast import fused

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def quantised(shape, block_size, quant_type="nf4", double=True):
    """A tensor on the CPU whose scales differ from block to block, and from group to group of 256."""
    n = torch.Size(shape).numel()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(n + block_size))
    return quantise_4bit(x * torch.linspace(0.01, 0.3, n).view(shape) ** 2, quant_type, block_size, double)


def check_dequantise(device):
    """The kernel gives, bit for bit, what PyTorch gives on a CPU."""
    quant_types = itertools.cycle(itertools.product(("nf4", "fp4"), DTYPES))
    cases = [
        ((1,), 64), ((2,), 32), ((65,), 65), ((4095,), 4096), ((3, 7), 32), ((3, 7), 1), ((40, 64), 64),
        ((3, 5, 64), 128), ((17, 130), 48), ((17, 130), 33), ((100, 41), 64), ((100, 41), 3), ((7, 11, 13), 512),
        ((5, 901), 256), ((2, 4097), 32), ((2, 8194), 64), ((1, 8192), 2048), ((3, 4000), 1000), ((2, 4097), 4096),
    ]  # fmt: skip
    for (shape, block_size), double in itertools.product(cases, (True, False)):
        quant_type, dtype = next(quant_types)
        weight = quantised(shape, block_size, quant_type, double)
        got = fused.dequantise_weight(weight.map(lambda t: t.to(device)), dtype)
        assert got.dtype == dtype
        assert torch.equal(got.cpu(), weight.dequantise(dtype)), (shape, block_size, quant_type, double, dtype)


def check_forward(device):
    products(device, backward=False)


def check_backward(device):
    products(device, backward=True)


def products(device, backward):
    """The product is the exact one, but for sums in float32 and one rounding of the result."""
    dtypes = itertools.cycle(DTYPES)
    cases = [  # x's dimensions before the last, out, in, block size, programs
        ((1,), 40, 128, 64, 1024), ((3, 7), 130, 70, 64, 1), ((2, 3), 96, 40, 64, 1024), ((16,), 65, 200, 64, 4),
        ((17,), 70, 130, 32, 1), ((), 30, 66, 48, 1024), ((2, 1, 2), 9, 4096, 4096, 8), ((5,), 200, 2, 16, 1024),
        ((5,), 140, 150, 256, 3), ((2,), 70, 390, 64, 3), ((4,), 66, 132, 64, 1),
    ]  # fmt: skip
    for i, (rows, fan_out, fan_in, block_size, programs) in enumerate(cases):
        dtype = next(dtypes)
        weight = quantised((fan_out, fan_in), block_size, ("nf4", "fp4")[i % 3 == 2], double=i % 4 != 3)
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(*rows, fan_out if backward else fan_in, generator=generator).to(dtype)
        with mock.patch.object(fused, "PROGRAMS", programs):  # few of them have many steps each
            got = fused.matmul(x.to(device), weight.map(lambda t: t.to(device)), backward)
        matrix = weight.dequantise(dtype).double()
        matrix = matrix if backward else matrix.T
        exact = x.double() @ matrix
        kind = torch.finfo(dtype)
        rounding = exact.abs().clamp(min=kind.tiny) * kind.eps / 2
        allowed = rounding + 1e-5 * (x.double().abs() @ matrix.abs())
        assert got.dtype == dtype and got.shape == exact.shape
        excess = ((got.cpu().double() - exact).abs() / allowed).max().item()
        assert excess <= 1, (rows, fan_out, fan_in, block_size, programs, dtype, excess)


CHECKS = {"dequantise": check_dequantise, "forward": check_forward, "backward": check_backward}


def failure(check):
    """What a check says on the CPU, or None if it passes."""
    try:
        check("cpu")
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return None


def mend_the_interpreter(patch):
    """In Triton 3.7's interpreter bfloat16 differs from a GPU's: float32 is cut off, not rounded, and ``tl.dot`` takes
    the bits for integers."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    convert, dot = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot

    def rounded(values, source, target, mode):
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(values, source, target, mode)
        return torch.from_numpy(np.ascontiguousarray(values)).bfloat16().view(torch.uint16).numpy()

    def dot_of_values(self, a, b, d, *how):
        if a.dtype.scalar == tl.bfloat16:
            a, b = self.cast_impl(a, tl.float32), self.cast_impl(b, tl.float32)
        return dot(self, a, b, d, *how)

    patch.setattr(interpreter, "_convert_float", rounded)
    patch.setattr(interpreter.InterpreterBuilder, "create_dot", dot_of_values)


if __name__ == "__main__":
    mend_the_interpreter(pytest.MonkeyPatch())
    print(json.dumps({name: failure(check) for name, check in CHECKS.items()}))
