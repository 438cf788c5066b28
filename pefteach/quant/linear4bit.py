"""A linear layer whose frozen weight lies in memory in 4 bits (Dettmers et al. 2023, "QLoRA", equation 5).

    y = x · dequantise(W)ᵀ + b,    dx = dy · dequantise(W),    and no dW at all

The full weight exists only while one product is computed: the backward pass dequantises it again instead of keeping
it. That is the bargain of QLoRA: a little arithmetic for a lot of memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pefteach.quant.double import NestedAbsmax
from pefteach.quant.fast import fused
from pefteach.quant.files import from_state, to_state
from pefteach.quant.four_bit import Quantised4bit, quantise_4bit


class _FrozenLinear(torch.autograd.Function):
    """x (..., in) -> x Wᵀ (..., out) for a quantised W (out, in) that gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Quantised4bit) -> Tensor:
        ctx.weight = weight  # the 4 bits, not the product's operand
        return fused.matmul(x, weight) if fused.worth_fusing(x, weight) else F.linear(x, weight.dequantise(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        weight = ctx.weight
        if fused.worth_fusing(dy, weight):
            return fused.matmul(dy, weight, backward=True), None
        return dy @ weight.dequantise(dy.dtype), None


class Linear4bit(nn.Linear):
    """``nn.Linear`` with its weight in 4 bits. Adapters attach to it as to any linear layer.

    Args:
        quantised: the weight, (out, in).
        bias: (out,), kept as it is; it may train.
        compute_dtype: the precision of the product; the input's by default. The output has the input's.
    """

    packed: nn.Parameter
    absmax: Tensor  # the scales, or their codes under double quantisation; then there are the next two as well
    nested_absmax: Tensor
    offset: Tensor | None

    def __init__(self, quantised: Quantised4bit, bias: nn.Parameter | None, compute_dtype: torch.dtype | None = None):
        nn.Module.__init__(self)  # nn.Linear's own would make a full weight
        self.out_features, self.in_features = quantised.shape
        self.quantised, self.compute_dtype = quantised, compute_dtype
        self.register_parameter("bias", bias)

    @property
    def quantised(self) -> Quantised4bit:
        """The weight in 4 bits."""
        absmax = self.absmax if self.offset is None else NestedAbsmax(self.absmax, self.nested_absmax, self.offset)
        return Quantised4bit(self.packed, absmax, *self._facts)

    @quantised.setter
    def quantised(self, quantised: Quantised4bit) -> None:
        # Parameter and buffers, so that whatever counts, moves or shards them finds them.
        self.packed = nn.Parameter(quantised.packed, requires_grad=False)
        absmax = quantised.absmax
        parts: tuple = (absmax, None, None)
        if isinstance(absmax, NestedAbsmax):
            parts = (absmax.codes, absmax.absmax, absmax.offset)
        for name, part in zip(("absmax", "nested_absmax", "offset"), parts):
            self.register_buffer(name, part, persistent=False)
        self._facts = quantised.quant_type, quantised.block_size, quantised.shape, quantised.dtype

    @classmethod
    def from_linear(
        cls,
        layer: Any,
        quant_type: str = "nf4",
        block_size: int = 64,
        double_quantisation: bool = True,
        compute_dtype: torch.dtype | None = None,
    ) -> Linear4bit:
        """Quantise an ``nn.Linear``, or GPT-2's ``Conv1D``; the bias is shared.

        Raises:
            ValueError: see :func:`pefteach.quant.four_bit.quantise_4bit`.
        """
        weight = layer.weight if isinstance(layer, nn.Linear) else layer.weight.T  # Conv1D stores (in, out)
        quantised = quantise_4bit(weight, quant_type, block_size, double_quantisation)
        return cls(quantised, layer.bias, compute_dtype).train(layer.training)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight as the layer acts, dequantised: (out, in). A new tensor each time, so writing to it is in vain."""
        return self.quantised.dequantise()

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        dtype = self.compute_dtype or x.dtype
        y = _FrozenLinear.apply(x.to(dtype), self.quantised)
        return (y if self.bias is None else y + self.bias.to(dtype)).to(x.dtype)

    def extra_repr(self) -> str:
        quant_type, size = self.quantised.quant_type, self.quantised.block_size
        return f"{super().extra_repr()}, {quant_type}, blocks of {size}, {self.quantised.bits_per_parameter:.3f} bits"

    def _apply(self, fn: Any, recurse: bool = True) -> Linear4bit:
        scales = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, scale in scales.items():  # they only move: .half() would round them
            self._buffers[name] = None if scale is None else scale.to(self.packed.device)
        return self

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}packed"]  # comes as "weight"
        for name, tensor in to_state(self.quantised).items():
            destination[f"{prefix}weight.{name}".rstrip(".")] = tensor if keep_vars else tensor.detach()

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, metadata: dict, strict: bool, missing: list, unexpected: list, errors: list
    ) -> None:
        start = f"{prefix}weight"
        own = {key: state_dict[key] for key in state_dict if key == start or key.startswith(f"{start}.")}
        rest = {key: value for key, value in state_dict.items() if key not in own} | {f"{prefix}packed": self.packed}
        super()._load_from_state_dict(rest, prefix, metadata, strict, missing, unexpected, errors)
        if not own:
            missing.append(start)
            return
        try:
            quantised = from_state({key.removeprefix(start).removeprefix("."): value for key, value in own.items()})
            if quantised.shape != self.quantised.shape:
                here, there = tuple(self.quantised.shape), tuple(quantised.shape)
                raise ValueError(f"it is {there}, and this layer is {here}")
        except ValueError as error:
            errors.append(f"cannot load {start}: {error}")
            return
        device = self.quantised.packed.device
        self.quantised = quantised.map(lambda tensor: tensor.to(device, copy=True))
