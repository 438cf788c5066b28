"""Compute the merged weights and biases, with which a layer alone behaves like layer and adapter together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def merged_values(model: nn.Module, layers: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[nn.Parameter, Tensor]:
    """The new value of every weight and bias, in the layer's own layout and dtype. Nothing is changed.

    Args:
        layers: the linear layers of the base, by path.
        parts: the part around each, by the same paths.

    Raises:
        ValueError: a part that cannot be merged, a weight that another module shares or that is packed in few bits, or
            a value that would not be finite.
    """
    new: dict[nn.Parameter, Tensor] = {}
    places = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for path, part in parts.items():
        layer = layers[path]
        if places[id(layer.weight)] > 1:
            raise ValueError(f"{path} shares its weight with another module, which merging would change too")
        if not isinstance(layer.weight, nn.Parameter) or not layer.weight.is_floating_point():
            raise ValueError(f"{path} is in few bits: call pefteach.quant.dequantise(model) first, then merge")
        values = {layer.weight: part.merged_weight(layer)}  # a part that cannot be merged says so here
        if layer.bias is not None:
            values[layer.bias] = part.merged_bias(layer)
        if not all(value.isfinite().all() for value in values.values()):
            raise ValueError(f"merging would write values that are not finite into {path}")
        new |= values
    return new
