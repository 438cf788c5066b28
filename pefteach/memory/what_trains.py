"""What a method trains in a Llama, as far as its memory goes: one row of ``FORMULAS`` per method that a formula knows.

A row belongs to one class and not to its subclasses: DoRA is a kind of LoRA, and keeps more than LoRA does. A method
without a row is refused; :func:`pefteach.memory.rehearse.rehearse_step` runs the method itself and needs no row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pefteach.memory.llamas import ATTENTION, block_count, has_bias, linear_layers, parameter_count
from pefteach.methods import BitFit, FullFineTuning, LastLayers, LoRA, Method, Norms
from pefteach.model.decoder import Config


@dataclass(frozen=True)
class Training:
    """What trains, and where.

    Attributes:
        trained: how many numbers train.
        added: how many of them the base does not have.
        in_float32: whether they are in float32 whatever the base's precision.
        blocks: how many blocks, counted from the top, gradients go through.
        inputs: linear layers whose weight trains, so that their input is kept.
        biases: linear layers whose bias alone trains: gradients start there, but no input is kept.
        low_rank: linear layers with LoRA beside them, and ``rank`` its rank.
        norms, embedding, head: whether these train.
    """

    trained: int
    added: int = 0
    in_float32: bool = False
    blocks: int = 0
    inputs: frozenset[str] = frozenset()
    biases: frozenset[str] = frozenset()
    low_rank: frozenset[str] = frozenset()
    rank: int = 0
    norms: bool = False
    embedding: bool = False
    head: bool = False


def _full(config: Config, method: FullFineTuning) -> Training:
    return Training(
        parameter_count(config), blocks=config.num_hidden_layers, inputs=frozenset(linear_layers(config)),
        norms=True, embedding=True, head=True,
    )  # fmt: skip


def _last_layers(config: Config, method: LastLayers) -> Training:
    if not 1 <= method.count <= config.num_hidden_layers:
        raise ValueError(
            f"count must be between 1 and the model's {config.num_hidden_layers} blocks, not {method.count}"
        )
    trained = method.count * block_count(config) + config.hidden_size  # and the final norm
    return Training(trained, blocks=method.count, inputs=frozenset(linear_layers(config)), norms=True)


def _norms(config: Config, method: Norms) -> Training:
    L = config.num_hidden_layers
    return Training((2 * L + 1) * config.hidden_size, blocks=L, norms=True)


def _bitfit(config: Config, method: BitFit) -> Training:
    layers, L = linear_layers(config), config.num_hidden_layers
    own = {name for name in layers if has_bias(config, name)}
    new = (_meant(method.add_to, layers) if method.add_to else frozenset()) - own
    if not own | new:
        raise ValueError(f"this model has no biases: add zero ones with add_to=, to any of {', '.join(layers)}")
    outputs = lambda names: L * sum(layers[name][1] for name in names)
    return Training(outputs(own | new), added=outputs(new), blocks=L, biases=frozenset(own | new))


def _lora(config: Config, method: LoRA) -> Training:
    layers, L = linear_layers(config), config.num_hidden_layers
    names = _meant(method.target_modules, layers)
    limit = min(min(layers[name]) for name in names)
    if not 1 <= method.rank <= limit:
        raise ValueError(f"rank must be between 1 and {limit} for these layers, not {method.rank}")
    if method.dropout:
        raise ValueError("the formula knows LoRA without dropout: set dropout=0, or ask rehearse_step")
    added = L * sum(method.rank * sum(layers[name]) for name in names)
    return Training(added, added, in_float32=True, blocks=L, low_rank=names, rank=method.rank)


FORMULAS: dict[type[Method], Callable[[Config, Any], Training]] = {
    FullFineTuning: _full, LastLayers: _last_layers, Norms: _norms, BitFit: _bitfit, LoRA: _lora,
}  # fmt: skip


def what_trains(config: Config, method: Method) -> Training:
    """What ``method`` trains in a model of this shape.

    Raises:
        ValueError: a method without a row in ``FORMULAS``, or settings that do not fit the model.
    """
    describe = FORMULAS.get(type(method))  # by the class itself: a subclass computes something else
    if describe is None:
        name = type(method).__name__ if isinstance(method, Method) else repr(method)
        known = ", ".join(kind.__name__ for kind in FORMULAS)
        raise ValueError(f"there is no formula for {name}: there is one for {known}; rehearse_step takes every method")
    return describe(config, method)


def _meant(target_modules: str | Sequence[str], layers: dict[str, tuple[int, int]]) -> frozenset[str]:
    """The linear layers that a method's targets mean. They are the same in all blocks: the formula knows no others."""
    if target_modules == "all-linear":
        return frozenset(layers)
    if not target_modules or isinstance(target_modules, str):  # a string is a regular expression for whole paths
        raise ValueError(f"the formula takes 'all-linear' or a list of {', '.join(layers)}, not {target_modules!r}")
    meant = {f"{'self_attn' if name in ATTENTION else 'mlp'}.{name}": name for name in layers}
    meant |= {name: name for name in layers}
    for target in target_modules:
        if target not in meant:
            raise ValueError(f"the formula knows no layer {target!r}: use 'all-linear' or any of {', '.join(layers)}")
    return frozenset(meant[target] for target in target_modules)
