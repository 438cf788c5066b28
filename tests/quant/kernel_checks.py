"""What must hold of the Triton kernels on any device, and the kernels as people get them wrong.

As a script, without a GPU: run the checks on the kernels and on each wrong version in Triton's interpreter, which
carries out programs one after the other with NumPy. It prints, as JSON, what failed in each. It has to be a process of
its own, as TRITON_INTERPRET=1 has an effect only before Triton is imported.
"""

import importlib.util
import itertools
import json
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch

from pefteach.quant import quantise_4bit
from pefteach.quant.fast import fused

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def quantised(shape, block_size, kind="nf4", double=True):
    """On the CPU; the scales differ from block to block, and so do the groups of 256."""
    n = torch.Size(shape).numel()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(n + block_size))
    return quantise_4bit(x * torch.linspace(0.01, 0.3, n).view(shape) ** 2, kind, block_size, double)


def check_dequantise(device):
    """Bit for bit what PyTorch gives on a CPU."""
    kinds = itertools.cycle(itertools.product(("nf4", "fp4"), DTYPES))
    cases = [
        ((1,), 64), ((2,), 32), ((65,), 65), ((4095,), 4096), ((3, 7), 32), ((3, 7), 1), ((40, 64), 64),
        ((3, 5, 64), 128), ((17, 130), 48), ((17, 130), 33), ((100, 41), 64), ((100, 41), 3), ((7, 11, 13), 512),
        ((5, 901), 256), ((2, 4097), 32), ((2, 8194), 64), ((1, 8192), 2048), ((3, 4000), 1000), ((2, 4097), 4096),
    ]  # fmt: skip
    for (shape, block_size), double in itertools.product(cases, (True, False)):
        kind, dtype = next(kinds)
        weight = quantised(shape, block_size, kind, double)
        got = fused.dequantise(weight.map(lambda t: t.to(device)), dtype)
        assert got.dtype == dtype
        assert torch.equal(got.cpu(), weight.dequantise(dtype)), (shape, block_size, kind, double, dtype)


def check_forward(device):
    products(device, backward=False)


def check_backward(device):
    products(device, backward=True)


def products(device, backward):
    """The exact product with the dequantised weight, but for float32 sums and one rounding of the result."""
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
        with patch.object(fused, "PROGRAMS", programs):  # few of them have many steps each
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

# wrong -> what the kernels' text has, what it says instead, and the check that has to notice
WRONG = {
    "the low half first": ("tl.interleave(pair >> 4, pair & 15)", "tl.interleave(pair & 15, pair >> 4)", "dequantise"),
    "the high half only": ("tl.interleave(pair >> 4, pair & 15)", "tl.interleave(pair >> 4, pair >> 4)", "dequantise"),
    "the offset forgotten": (" * group + tl.load(offset)", " * group", "dequantise"),
    "groups of 64 scales": ("block // 256", "block // 64", "dequantise"),
    "one group for all scales": ("nested + block // 256", "nested + block // 65536", "dequantise"),
    "a scale's code with a sign": ("scale.to(tl.int32)", "scale.to(tl.int8, bitcast=True)", "dequantise"),
    "one block per run": ("one[:, None], two[:, None])", "one[:, None], one[:, None])", "dequantise"),
    "a block per run, wherever it starts": ("block = 2 * start // SIZE", "block = 2 * start // RUN", "dequantise"),
    "bytes counted as weights": ("block = 2 * start // SIZE", "block = start // SIZE", "dequantise"),
    "scales rounded to 16 bits": ("return level * scale", "return level * scale.to(tl.float16)", "dequantise"),
    "the last values not written": ("mask=place < n", "mask=place < n - n % 2", "dequantise"),
    "the end of x not masked": ("& (i < inner)[None, :]\n        a =", "\n        a =", "forward"),
    "W not turned": ("w = tl.trans(w)", "w = w", "forward"),
    "W with its rows as columns": ("column.to(tl.int64) * (inner", "column.to(tl.int64) * (columns", "forward"),
    "columns of another tile": ("(columns // 2) + edge // 2", "(columns // 2)", "backward"),
    "rows of another tile": ("column = edge + tl.arange(0, COLUMNS)", "column = tl.arange(0, COLUMNS)", "forward"),
    "only the first step": ("total = tl.dot(a, w.to(a.dtype), total,", "total = tl.dot(a, w.to(a.dtype),", "forward"),
    "each part computes everything": ("part * share, min((part + 1) * share, inner)", "0, inner", "forward"),
    "summed in 16 bits": ("total, mask=there)", "total.to(tl.float16).to(tl.float32), mask=there)", "forward"),
    "one row of x for all": ("row.to(tl.int64)[:, None] * inner", "0 * row.to(tl.int64)[:, None] * inner", "forward"),
}  # fmt: skip


def use(text, folder):
    """Let ``fused`` start the kernels of this text."""
    path = Path(folder) / f"kernels_{len(list(Path(folder).iterdir()))}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fused._kernels = lambda: module


def failure(check):
    """What a check says on the CPU, or None if it passes."""
    try:
        check("cpu")
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return None


def mend_the_interpreter():
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

    interpreter._convert_float, interpreter.InterpreterBuilder.create_dot = rounded, dot_of_values


if __name__ == "__main__":
    mend_the_interpreter()
    right = Path(fused.__file__).with_name("kernels.py").read_text()
    report = {name: failure(check) for name, check in CHECKS.items()}
    with tempfile.TemporaryDirectory() as folder:
        for what, (old, new, check) in WRONG.items():
            if right.count(old) != 1:
                sys.exit(f"{what}: the kernels have {old!r} {right.count(old)} times")
            use(right.replace(old, new), folder)
            report[what] = failure(CHECKS[check])
    print(json.dumps(report))
