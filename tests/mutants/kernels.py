"""The Triton kernels, as people get them wrong: their text with one piece replaced.

They are looked for in Triton's interpreter, so the process needs TRITON_INTERPRET=1.
"""

import importlib.util
import tempfile
from functools import partial
from pathlib import Path

import pytest

from mutants.mutant import Mutant
from pefteach.quant.fast import fused
from quant.fast import kernel_checks

pytest.importorskip("triton", reason="Triton is for Linux on x86-64")

RIGHT = Path(fused.__file__).with_name("kernels.py").read_text()
FOLDER = tempfile.TemporaryDirectory()  # Triton reads a kernel's text from its file


def saying(old, new):
    """Let ``fused`` start kernels whose text has ``new`` where the right one has ``old``."""

    def patch(monkeypatch):
        assert RIGHT.count(old) == 1, f"the kernels have {old!r} {RIGHT.count(old)} times"
        path = Path(FOLDER.name) / f"kernels_{len(list(Path(FOLDER.name).iterdir()))}.py"
        path.write_text(RIGHT.replace(old, new))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        kernel_checks.mend_the_interpreter(monkeypatch)
        monkeypatch.setattr(fused, "_kernels", lambda: module)

    return patch


def wrong_numbers(check):
    """The check on the CPU. Only wrong numbers count: a kernel that crashes is not caught."""

    def on_the_cpu():
        try:
            check("cpu")
        except AssertionError:
            raise
        except Exception:
            pass

    on_the_cpu.__name__ = check.__name__
    return on_the_cpu


DEQUANTISE = (wrong_numbers(kernel_checks.check_dequantise),)
FORWARD = (wrong_numbers(kernel_checks.check_forward),)
BACKWARD = (wrong_numbers(kernel_checks.check_backward),)
kernel = partial(Mutant, of="4-bit kernel", family="")

MUTANTS = [
    kernel("the low half first",
           patch=saying("tl.interleave(pair >> 4, pair & 15)", "tl.interleave(pair & 15, pair >> 4)"),
           checks=DEQUANTISE),
    kernel("the high half only",
           patch=saying("tl.interleave(pair >> 4, pair & 15)", "tl.interleave(pair >> 4, pair >> 4)"),
           checks=DEQUANTISE),
    kernel("the offset forgotten", patch=saying(" * group + tl.load(offset)", " * group"), checks=DEQUANTISE),
    kernel("groups of 64 scales", patch=saying("block // 256", "block // 64"), checks=DEQUANTISE),
    kernel("one group for all scales",
           patch=saying("nested + block // 256", "nested + block // 65536"),
           checks=DEQUANTISE),
    kernel("a scale's code with a sign",
           patch=saying("scale.to(tl.int32)", "scale.to(tl.int8, bitcast=True)"),
           checks=DEQUANTISE),
    kernel("one block per run",
           patch=saying("one[:, None], two[:, None])", "one[:, None], one[:, None])"),
           checks=DEQUANTISE),
    kernel("a block per run, wherever it starts",
           patch=saying("block = 2 * start // SIZE", "block = 2 * start // RUN"),
           checks=DEQUANTISE),
    kernel("bytes counted as weights",
           patch=saying("block = 2 * start // SIZE", "block = start // SIZE"),
           checks=DEQUANTISE),
    kernel("scales rounded to 16 bits",
           patch=saying("return level * scale", "return level * scale.to(tl.float16)"),
           checks=DEQUANTISE),
    kernel("the last values not written", patch=saying("mask=place < n", "mask=place < n - n % 2"), checks=DEQUANTISE),
    kernel("the end of x not masked",
           patch=saying("& (i < inner)[None, :]\n        a =", "\n        a ="), checks=FORWARD),
    kernel("W not turned", patch=saying("w = tl.trans(w)", "w = w"), checks=FORWARD),
    kernel("W with its rows as columns",
           patch=saying("column.to(tl.int64) * (inner", "column.to(tl.int64) * (columns"), checks=FORWARD),
    kernel("columns of another tile", patch=saying("(columns // 2) + edge // 2", "(columns // 2)"), checks=BACKWARD),
    kernel("rows of another tile",
           patch=saying("column = edge + tl.arange(0, COLUMNS)", "column = tl.arange(0, COLUMNS)"), checks=FORWARD),
    kernel("only the first step",
           patch=saying("total = tl.dot(a, w.to(a.dtype), total,", "total = tl.dot(a, w.to(a.dtype),"), checks=FORWARD),
    kernel("each part computes everything",
           patch=saying("part * share, min((part + 1) * share, inner)", "0, inner"), checks=FORWARD),
    kernel("summed in 16 bits",
           patch=saying("total, mask=there)", "total.to(tl.float16).to(tl.float32), mask=there)"), checks=FORWARD),
    kernel("one row of x for all",
           patch=saying("row.to(tl.int64)[:, None] * inner", "0 * row.to(tl.int64)[:, None] * inner"), checks=FORWARD),
]  # fmt: skip
