"""Tensors that have shapes and no numbers, so that a rehearsal can run a model of any size.

torch's fake tensors know their shape, precision and gradient, and take no memory. Three things in a training step
need replacing, because they depend on numbers: questions about values, weights in 4 bits, and the optimisers of
bitsandbytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pefteach.quant.double import BLOCK, NestedAbsmax
from pefteach.quant.four_bit import Quantised4bit

aten = torch.ops.aten


@contextmanager
def without_numbers(labels: int, counted: int) -> Iterator[None]:
    """Make every tensor fake that is made inside this ``with`` block.

    Args:
        labels: how many labels the batch holds.
        counted: how many of them count towards the loss.
    """
    with (
        patch("torch.utils.swap_tensors", _swap),  # module.to(…) calls it, and torch refuses it for fake parameters
        patch("torch.nn.init._no_grad_trunc_normal_", _unchanged),  # it draws until all numbers fit
        patch("pefteach.quant.linear4bit.quantise_4bit", weight_in_4bit),
        patch("pefteach.quant.four_bit.Quantised4bit.dequantise", _dequantise),
        FakeTensorMode(),
        _Answers(labels, counted),
    ):
        yield


def _swap(old: Tensor, new: Tensor) -> None:
    old.data = new.data


def _unchanged(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return tensor


class _Answers(TorchDispatchMode):
    """Answers the questions that a training step asks about values; other questions raise torch's error."""

    def __init__(self, labels: int, counted: int):
        super().__init__()
        self.labels, self.counted = labels, counted
        self.last_all: Any = None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is aten.nonzero.default and args[0].shape == (self.labels,):  # the loss: which labels count?
            return args[0].new_empty((self.counted, 1), dtype=torch.long)
        if func is aten._local_scalar_dense.default:
            if args[0] is self.last_all:  # transformers: do all tokens of the mask count?
                return True
            if args[0].dtype == torch.float32:  # AdamW: which step is this?
                return 1.0
        result = func(*args, **(kwargs or {}))
        if func is aten.all.default:
            self.last_all = result
        return result


def weight_in_4bit(x: Tensor, quant_type: str, block_size: int, double_quantisation: bool) -> Quantised4bit:
    """A fake result of :func:`pefteach.quant.four_bit.quantise_4bit`, of the right sizes."""
    n = x.numel()
    blocks = -(-n // block_size)
    scales: Tensor | NestedAbsmax = torch.empty(blocks)
    if double_quantisation:
        scales = NestedAbsmax(_bytes(blocks), torch.empty(-(-blocks // BLOCK)), torch.empty(()))
    return Quantised4bit(_bytes(-(-n // 2), 1), scales, quant_type, block_size, x.shape, x.dtype)


def _bytes(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.uint8)


def _dequantise(weight: Quantised4bit, dtype: torch.dtype | None = None) -> Tensor:
    """A fake result of dequantising. No code book is looked up: those are kept, so they must not be fake."""
    return torch.empty(weight.shape, dtype=dtype or weight.dtype)


class StatesOfAdamW(torch.optim.Optimizer):
    """An optimiser that has the states of bitsandbytes' AdamW and updates nothing: its kernels need no other memory.

    Two numbers per trained one: in float32, or in 8 bits with a float32 scale per 256. Small tensors stay in float32.
    """

    def __init__(self, parameters: Any, lr: float, bits: int):
        super().__init__(parameters, {"lr": lr})
        self.bits = bits
        self.code_books = [torch.empty(256), torch.empty(256)]

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:  # type: ignore[override]
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.grad is None or self.state[p]:
                continue
            eight = self.bits == 8 and p.numel() >= 4096
            for i in (1, 2):
                self.state[p][f"state{i}"] = torch.empty_like(p, dtype=torch.uint8 if eight else torch.float32)
                if eight:
                    self.state[p][f"absmax{i}"] = torch.empty(-(-p.numel() // 256))
                    self.state[p][f"qmap{i}"] = self.code_books[i - 1]
