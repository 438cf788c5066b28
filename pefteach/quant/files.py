"""How bitsandbytes writes a 4-bit tensor into a state dict, both ways.

Beside ``weight`` (the packed codes) come its parts under names with dots, and what is no tensor as JSON in bytes:

    weight  weight.absmax  weight.quant_map  weight.quant_state.bitsandbytes__nf4
    weight.nested_absmax  weight.nested_quant_map                                    (with double quantisation)
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

from pefteach.quant.codebooks import codebook
from pefteach.quant.double import BLOCK, NestedAbsmax
from pefteach.quant.four_bit import Quantised4bit

STATE = "quant_state.bitsandbytes__"


def to_state(quantised: Quantised4bit) -> dict[str, Tensor]:
    """The tensors, under bitsandbytes' names without "weight.": the packed codes are under ""."""
    absmax, device = quantised.absmax, quantised.packed.device
    tensors = {"": quantised.packed, "quant_map": codebook(quantised.quant_type, device)}
    facts = {
        "quant_type": quantised.quant_type,
        "blocksize": quantised.block_size,
        "dtype": str(quantised.dtype).removeprefix("torch."),
        "shape": tuple(quantised.shape),
    }
    if isinstance(absmax, NestedAbsmax):
        tensors["absmax"] = absmax.codes
        tensors |= {"nested_absmax": absmax.absmax, "nested_quant_map": codebook("dynamic", device)}
        facts |= {"nested_blocksize": BLOCK, "nested_dtype": "float32", "nested_offset": absmax.offset.item()}
    else:
        tensors["absmax"] = absmax
    tensors[STATE + quantised.quant_type] = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)
    return tensors


def from_state(tensors: dict[str, Tensor]) -> Quantised4bit:
    """The opposite of :func:`to_state`.

    Raises:
        ValueError: a missing tensor, facts that do not fit, or a code book other than the one of that name.
    """
    try:
        packed, absmax, values = tensors[""].view(torch.uint8), tensors["absmax"], tensors["quant_map"]
        scales: Tensor | NestedAbsmax = absmax
        facts = json.loads(bytes(next(t for name, t in tensors.items() if name.startswith(STATE)).tolist()))
        quant_type, block_size, shape = facts["quant_type"], facts["blocksize"], torch.Size(facts["shape"])
        dtype, device = getattr(torch, facts["dtype"]), packed.device
        books = {quant_type: values}
        if "nested_absmax" in tensors:
            offset = torch.tensor(facts["nested_offset"], dtype=torch.float32, device=device)
            scales = NestedAbsmax(absmax, tensors["nested_absmax"], offset)
            books["dynamic"] = tensors["nested_quant_map"]
            if facts["nested_blocksize"] != BLOCK:
                raise ValueError(f"its scales are in blocks of {facts['nested_blocksize']}, and only {BLOCK} is known")
    except (KeyError, StopIteration, AttributeError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"not a 4-bit tensor as bitsandbytes stores it: {str(error) or 'no quant_state'}") from None
    for name, book in books.items():
        if not torch.equal(book, codebook(name, book.device)):
            raise ValueError(f"its code book is not the {name} that is known here")
    n = shape.numel()
    if packed.numel() != -(-n // 2) or absmax.numel() != -(-n // block_size):
        raise ValueError(f"{tuple(shape)} in blocks of {block_size} does not fit its {packed.numel()} bytes of codes")
    return Quantised4bit(packed.view(-1, 1), scales, quant_type, block_size, shape, dtype)
