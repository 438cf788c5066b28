"""Codes of a few bits, side by side in bytes, the first code in the highest bits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pack(codes: Tensor, bits: int) -> Tensor:
    """Write codes (n,) of ``bits`` bits each as one stream, (⌈n · bits / 8⌉,) uint8; the last byte is filled.

    Args:
        codes: uint8, each below 2 to the power of ``bits``.
    """
    if bits == 4:
        return pack_pairs(codes)  # the same bytes, at a fraction of the work
    stream = codes[:, None] >> _places(bits, codes) & 1  # (n, bits), the highest bit first
    stream = F.pad(stream.reshape(-1), (0, -stream.numel() % 8))
    return (stream.view(-1, 8) << _places(8, codes)).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, n: int) -> Tensor:
    """The first n codes of a stream, (n,) uint8."""
    stream = (packed[:, None] >> _places(8, packed) & 1).view(-1)[: n * bits]
    return (stream.view(n, bits) << _places(bits, packed)).sum(1, dtype=torch.uint8)


def pack_pairs(codes: Tensor) -> Tensor:
    """Write two 4-bit codes into each byte: (n,) uint8 -> (⌈n / 2⌉,) uint8, the first of each pair in the high half."""
    packed = codes[::2] << 4
    packed[: len(codes) // 2] |= codes[1::2]
    return packed


def _places(bits: int, like: Tensor) -> Tensor:
    return torch.arange(bits - 1, -1, -1, dtype=torch.uint8, device=like.device)
