"""Models in 4 bits: which layers, which back end, and what to watch for.

The linear layers inside the blocks go to 4 bits; they hold nearly all of the weights. Embeddings, norms and the
output layer stay as they are: they are small, and they suffer more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pefteach.choices import BACKENDS
from pefteach.model.modules import base_modules, has_adapters, is_linear, linear_shape, put_module, unwrapped
from pefteach.quant.files import from_state
from pefteach.quant.four_bit import Quantised4bit
from pefteach.quant.linear4bit import Linear4bit


def quantise(
    model: nn.Module,
    backend: str = "pefteach",
    *,
    quant_type: str = "nf4",
    block_size: int = 64,
    double_quantisation: bool = True,
    compute_dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> nn.Module:
    """Put the linear layers of a model's blocks into 4 bits, in place, one by one.

    Args:
        model: the course's decoder or any Hugging Face model, on any device, without adapters.
        backend: "pefteach" for this package's layer, "bitsandbytes" for that library's, with the same numbers.
        quant_type, block_size, double_quantisation: see :func:`pefteach.quant.four_bit.quantise_4bit`.
        compute_dtype: the precision of the products; by default the input's.
        device: where to quantise, and to leave the model; by default where it is. The layers go there one by one, so
            that a GPU never holds the full weights.

    Returns:
        The same model.

    Raises:
        ValueError: an unknown back end or quant_type, adapters or 4-bit layers in the model, no blocks, weights
            that are not finite, or a layer that bitsandbytes would get wrong on this machine.
    """
    if backend not in BACKENDS:
        raise ValueError(f"no back end is called {backend!r}: choose one of {', '.join(BACKENDS)}")
    if has_adapters(model):
        raise ValueError("this model has adapters: quantise it first and attach them afterwards")
    layers = block_linears(model)
    if any(four_bit_weight(layer) is not None for layer in layers.values()):
        raise ValueError("this model is in 4 bits already")
    for path, layer in layers.items():
        new: nn.Module
        layer.to(device)
        try:
            if backend == "pefteach":
                new = Linear4bit.from_linear(layer, quant_type, block_size, double_quantisation, compute_dtype)
            else:
                new = _bitsandbytes_layer(layer, quant_type, block_size, double_quantisation, compute_dtype)
        except ValueError as error:
            raise ValueError(f"cannot quantise {path}: {error}") from None
        _put(model, path, new)
    return check_bitsandbytes(model.to(device))


def load_in_4bit(
    name_or_path: str,
    *,
    quant_type: str = "nf4",
    double_quantisation: bool = True,
    compute_dtype: torch.dtype = torch.bfloat16,
    **settings: Any,
) -> nn.Module:
    """Open a checkpoint with transformers, in 4 bits by bitsandbytes; the full weights never lie in memory together.

    Args:
        name_or_path: a folder, or a name on the hub.
        compute_dtype: the precision of the products, and of the tensors that stay out of 4 bits.
        settings: more arguments for ``from_pretrained``, such as ``device_map``.

    Raises:
        ValueError: bitsandbytes or accelerate is not installed, or a layer that bitsandbytes would get wrong here.
    """
    bitsandbytes()
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,  # the library's own default is fp4
        bnb_4bit_use_double_quant=double_quantisation,
        bnb_4bit_compute_dtype=compute_dtype,
    )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name_or_path, quantization_config=config, dtype=compute_dtype, **settings
        )
    except ImportError as error:
        raise ValueError(f"{error}: run `pip install 'pefteach[gpu]'`") from None
    return check_bitsandbytes(model)


@torch.no_grad()
def dequantise(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Turn every 4-bit layer back into an ``nn.Linear``, in place; adapters stay attached, and can then be merged.

    Args:
        dtype: the precision of the new weights; by default that of the weights before they were quantised.

    Raises:
        ValueError: nothing in this model is in 4 bits.
    """
    layers = {path: layer for path, layer in base_modules(model) if four_bit_weight(layer) is not None}
    if not layers:
        raise ValueError("no layer of this model is in 4 bits")
    for path, layer in layers.items():
        weight = four_bit_weight(layer).dequantise(dtype)
        new: Any = nn.Linear(*linear_shape(layer), bias=False, device="meta").train(layer.training)
        new.weight, new.bias = nn.Parameter(weight, requires_grad=False), layer.bias
        _put(model, path, new)
    return model


def block_linears(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers inside the model's lists of blocks, by path: no embedding, no head, no pooler,
    and nothing that transformers keeps in high precision.

    Raises:
        ValueError: there are none.
    """
    modules = dict(base_modules(model))
    blocks = tuple(f"{path}." for path, module in modules.items() if isinstance(module, nn.ModuleList))
    # T5 casts the input of its wo to the weight's precision, which for packed bytes would be uint8.
    high = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    found = {
        path: module
        for path, module in modules.items()
        if is_linear(module) and path.startswith(blocks) and not high & set(path.split("."))
    }
    if not found:
        raise ValueError("this model has no blocks with linear layers to quantise")
    return found


def four_bit_weight(layer: Any) -> Quantised4bit | None:
    """The weight of a 4-bit layer of either back end; None for any other layer."""
    if isinstance(layer, Linear4bit):
        return layer.quantised
    state = getattr(getattr(layer, "weight", None), "quant_state", None)  # a bitsandbytes parameter has one
    if state is None:
        return None
    return from_state({"": layer.weight.detach()} | state.as_dict(packed=True))


def check_bitsandbytes(model: nn.Module) -> nn.Module:
    """Keep bitsandbytes' 4-bit layers right on a CPU; without such layers this does nothing.

    Two faults, seen in bitsandbytes 0.50 on processors with AVX-512, raise no error. The first forward pass in eval
    mode repacks the weight for a faster kernel, after which no gradient flows and nothing can dequantise it: so that
    is switched off. And blocks that cross the end of a row are dequantised with a wrong scale: so every layer
    is dequantised once and compared.

    Raises:
        ValueError: a layer that bitsandbytes dequantises wrongly on this machine.
    """
    layer: Any
    for path, layer in base_modules(model):
        if not hasattr(layer, "support_avx512bf16_for_cpu"):
            continue
        layer.support_avx512bf16_for_cpu = False
        if layer.weight.device.type != "cpu" or layer.weight.quant_state is None:
            continue
        theirs = bitsandbytes().functional.dequantize_4bit(layer.weight.detach(), layer.weight.quant_state)
        if not torch.equal(theirs, four_bit_weight(layer).dequantise()):
            raise ValueError(
                f"bitsandbytes dequantises {path} {tuple(theirs.shape)} wrongly on this machine: its rows are not "
                "whole blocks. Use backend='pefteach', or a block size that divides the number of inputs"
            )
    return model


def _bitsandbytes_layer(
    layer: Any, quant_type: str, block_size: int, double_quantisation: bool, compute_dtype: torch.dtype | None
) -> nn.Module:
    """bitsandbytes' layer for the same weight; the bias is shared."""
    bnb = bitsandbytes()
    fan_in, fan_out = linear_shape(layer)
    weight = layer.weight if isinstance(layer, nn.Linear) else layer.weight.T  # Conv1D stores (in, out)
    new = bnb.nn.Linear4bit(fan_in, fan_out, bias=False, compute_dtype=compute_dtype, device="meta")
    new.weight = bnb.nn.Params4bit(
        weight.detach().contiguous(), requires_grad=False, blocksize=block_size, quant_type=quant_type,
        compress_statistics=double_quantisation, module=new,
    ).to(layer.weight.device)  # this is when it quantises # fmt: skip
    new.bias = layer.bias
    return new.train(layer.training)


def bitsandbytes() -> Any:
    """The library.

    Raises:
        ValueError: it is not installed, or does not start.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise ValueError(
            f"cannot import bitsandbytes ({error}): run `pip install 'pefteach[gpu]'`, or use backend='pefteach'"
        ) from None
    return bitsandbytes


def _put(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Let ``layer`` stand at a path of the base, under the adapters if there are any."""
    place = model.get_submodule(path)
    if unwrapped(place) is not place:
        place.base_layer = layer
        return
    put_module(model, path, layer)
