"""Selective fine-tuning: trains the base's own tensors: all, its last blocks, its norms or its biases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from pefteach.methods.core.adapter import Method
from pefteach.methods.core.targets import find_blocks, find_linear
from pefteach.methods.core.tensor_adapter import TensorAdapter
from pefteach.model.modules import base_modules, base_parameters, linear_shape


@dataclass(frozen=True)
class Selective(Method):
    """A method that trains a choice of the base's tensors. peft has none of these, so a file gives our name for it."""

    def choose(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The tensors to train, by name."""
        raise NotImplementedError

    def trained_parameters(self, model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in self.choose(model).values())

    def build(self, model: nn.Module, name: str) -> TensorAdapter:
        chosen = self.choose(model)
        for key, parameter in chosen.items():
            if not parameter.is_floating_point():
                raise ValueError(
                    f"{type(self).__name__} would train {key}, which is in few bits and cannot take small steps: "
                    "train an adapter beside it, such as LoRA"
                )
        return TensorAdapter(self, model, name, chosen)


@dataclass(frozen=True)
class FullFineTuning(Selective):
    """Trains every tensor: the baseline for all other methods."""

    formula: ClassVar[str] = "P, all of them"

    def choose(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return base_parameters(model)


@dataclass(frozen=True)
class LastLayers(Selective):
    """Trains the last ``count`` blocks and the final norm; a head tied to the embedding stays frozen with it.

    Lee, Tang & Lin 2019, "What Would Elsa Do?".

    Raises:
        ValueError: when attached with a count of 0 or above the number of blocks.
    """

    count: int = 2

    formula: ClassVar[str] = "k blocks + the final norm"

    def choose(self, model: nn.Module) -> dict[str, nn.Parameter]:
        blocks = list(find_blocks(model))
        path = blocks[0].rpartition(".")[0]
        if not 1 <= self.count <= len(blocks):
            raise ValueError(f"count must be between 1 and the {len(blocks)} blocks of {path}, not {self.count}")
        starts = tuple(f"{block}." for block in blocks[-self.count :])
        parent = path.rpartition(".")[0]
        norm = re.compile(rf"{re.escape(parent + '.') if parent else ''}(norm|ln_f|final_layer_norm)\.\w+")
        return {n: p for n, p in base_parameters(model).items() if n.startswith(starts) or norm.fullmatch(n)}


@dataclass(frozen=True)
class Norms(Selective):
    """Trains the scales (and shifts) of every LayerNorm and RMSNorm."""

    formula: ClassVar[str] = "D per scale or shift of a norm"

    def choose(self, model: nn.Module) -> dict[str, nn.Parameter]:
        norms = tuple(f"{path}." for path, module in base_modules(model) if "norm" in type(module).__name__.lower())
        chosen = {name: p for name, p in base_parameters(model).items() if name.startswith(norms)}
        if not chosen:
            raise ValueError("this model has no normalisation layers to train")
        return chosen


@dataclass(frozen=True)
class BitFit(Selective):
    """Trains the biases. Ben-Zaken, Goldberg & Ravfogel 2021, "BitFit".

    Args:
        add_to: linear layers that get a zero bias if they have none, since a plain Llama has no biases at all.

    Raises:
        ValueError: when attached to a model without biases and with nothing to add.
    """

    add_to: Sequence[str] = ()

    formula: ClassVar[str] = "one per output of a layer with a bias"

    def build(self, model: nn.Module, name: str) -> TensorAdapter:
        new = {f"{path}.bias": layer for path, layer in self.bare_layers(model).items()}
        chosen = self.choose(model)
        for key, layer in new.items():
            zeros = torch.zeros(linear_shape(layer)[1], device=layer.weight.device)
            chosen[key] = nn.Parameter(zeros.to(layer.weight.dtype) if layer.weight.is_floating_point() else zeros)
        if not chosen:
            names = dict.fromkeys(path.rsplit(".", 1)[-1] for path in find_linear(model, "all-linear"))
            raise ValueError(f"this model has no biases: add zero ones with add_to=, to any of {', '.join(names)}")
        return _BiasAdapter(self, model, name, chosen, new)

    def bare_layers(self, model: nn.Module) -> dict[str, Any]:
        """The layers of ``add_to`` that have no bias, by path."""
        layers: dict[str, Any] = find_linear(model, self.add_to) if self.add_to else {}
        return {path: layer for path, layer in layers.items() if layer.bias is None}

    def choose(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return {n: p for n, p in base_parameters(model).items() if n.endswith("bias")}

    def trained_parameters(self, model: nn.Module) -> int:
        new = sum(linear_shape(layer)[1] for layer in self.bare_layers(model).values())
        return new + super().trained_parameters(model)


class _BiasAdapter(TensorAdapter):
    """Gives layers without a bias a new one for as long as the adapter is attached."""

    def __init__(self, method: BitFit, model: nn.Module, name: str, chosen: dict, new: dict[str, Any]):
        super().__init__(method, model, name, chosen)
        self.new = new

    def insert(self) -> None:
        for key, layer in self.new.items():
            layer.bias = self.chosen[key]

    def remove(self) -> None:
        super().remove()
        for layer in self.new.values():
            layer.bias = None
