"""What ``pefteach plan`` computes: the bytes of a training step described in words, and the cards that hold it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from pefteach.memory.cards import fitting_cards
from pefteach.memory.count import Bytes
from pefteach.memory.llamas import MODELS
from pefteach.memory.rehearse import Preparation, rehearse_step
from pefteach.methods import METHODS, Method
from pefteach.methods.qlora import prepare_qlora

QLORA = "qlora"  # LoRA on all layers and norms in float32: see pefteach.methods.qlora
NAMES = {method.__name__.lower(): method for method in METHODS}


@dataclass(frozen=True)
class Plan:
    """What was asked, and the bytes that a rehearsal of it gave."""

    model: str
    method: str
    settings: list[str]
    batch: int
    length: int
    precision: str
    checkpointing: bool
    optimizer: str
    bytes: Bytes

    def fits(self) -> dict[int, bool]:
        """Whether each card holds the peak, by the card's GB."""
        assert self.bytes.peak is not None  # a rehearsal always has one
        return fitting_cards(self.bytes.peak)

    def to_json(self) -> dict:
        """The plan as plain data."""
        return asdict(self) | {"fits": self.fits()}


def make_plan(
    model: str,
    method: str,
    settings: Sequence[str] = (),
    batch: int = 1,
    length: int = 512,
    precision: str | None = None,
    checkpointing: bool = False,
    optimizer: str = "adamw",
) -> Plan:
    """Rehearse a step that is described in words.

    Args:
        model: a key of ``MODELS``, a folder with a config.json, or a name on the hub.
        method: a class of ``pefteach.methods``, in capitals or not, or "qlora".
        settings: the method's, each ``name=value``; several names have commas between them.
        precision: None for "nf4" with QLoRA, else "bf16".

    Raises:
        ValueError: an unknown model, method or setting, or what
            :func:`pefteach.memory.rehearse.rehearse_step` refuses.
    """
    how = find_method(method, settings)
    config = find_config(model, length + (how.extra_tokens() if isinstance(how, Method) else 0))
    precision = precision or ("nf4" if method.lower() == QLORA else "bf16")
    step = rehearse_step(
        config, how, batch, length, precision=precision, checkpointing=checkpointing, optimizer=optimizer
    )
    return Plan(model, method, list(settings), batch, length, precision, checkpointing, optimizer, step)


def find_method(name: str, settings: Sequence[str]) -> Preparation:
    """The method of a name, with its settings.

    Raises:
        ValueError: an unknown name or setting, or a value of the wrong kind.
    """
    if name.lower() == QLORA:
        make: Any = partial(partial, prepare_qlora)
        _, *asked = inspect.signature(prepare_qlora).parameters.values()  # the first is the model
        kinds = {setting.name: str(setting.annotation) for setting in asked if setting.kind != setting.KEYWORD_ONLY}
    elif name.lower() in NAMES:
        make = NAMES[name.lower()]
        kinds = {field.name: str(field.type) for field in fields(make) if "Mapping" not in str(field.type)}
    else:
        raise ValueError(f"no method is called {name!r}: choose one of {', '.join((*NAMES, QLORA))}")
    values = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"a setting is name=value, such as rank=16, not {text!r}")
        if key not in kinds:
            raise ValueError(f"{name} has no setting {key!r}: it has {', '.join(kinds) or 'none'}")
        values[key] = _value(key, value, kinds[key])
    try:
        return make(**values)
    except TypeError as error:
        raise ValueError(f"{name} needs another setting: {error}") from None


def _value(key: str, text: str, kind: str) -> Any:
    """The value of a setting. ``kind`` is its annotation, such as "int | None" or "str | Sequence[str]"."""
    if "str" in kind:
        return text.split(",") if "Sequence" in kind and text != "all-linear" else text
    try:
        value = json.loads(text.lower())  # a number, true, false or null
    except json.JSONDecodeError:
        value = text
    nothing = value is None and kind.endswith("None")
    number = isinstance(value, int if kind.startswith("int") else int | float)  # to Python, true is an int as well
    if not (nothing or (number and isinstance(value, bool) == (kind == "bool"))):
        raise ValueError(f"{key} takes {kind}, not {text!r}")
    return value


def find_config(name: str, length: int) -> Any:
    """The config of a model; one of ``MODELS`` takes rows of any length.

    Raises:
        ValueError: there is no such model, or it cannot be reached.
    """
    from transformers import AutoConfig, LlamaConfig

    if name in MODELS:
        return LlamaConfig(**MODELS[name].to_dict() | {"max_position_embeddings": length})
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError):
        where = "its config.json cannot be read" if Path(name).is_dir() else "the hub does not give it"
        raise ValueError(f"no model {name!r}: {where}, and the shapes known here are {', '.join(MODELS)}") from None
