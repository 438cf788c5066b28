"""``pefteach plan``: what a training step on a model will need, and which cards hold it, before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import rich
from rich.table import Table

from pefteach.memory.count import Bytes
from pefteach.memory.formula import MODELS
from pefteach.memory.rehearse import rehearse
from pefteach.methods import METHODS, Method
from pefteach.methods.qlora import prepare_qlora

CARDS = (8, 16, 24, 48, 80)  # GB
GIB = 2**30
NAMES = {method.__name__.lower(): method for method in METHODS}
QLORA = "qlora"  # LoRA on all layers and norms in float32: see pefteach.methods.qlora


def print_plan(
    model: str,
    method: str,
    settings: Sequence[str],
    batch: int,
    length: int,
    precision: str | None,
    checkpointing: bool,
    optimizer: str,
    as_json: bool,
) -> None:
    """Rehearse a step and print its bytes.

    Args:
        model: a key of ``MODELS``, a folder with a config.json, or a name on the hub.
        method: a class of ``pefteach.methods``, in capitals or not, or "qlora".
        settings: the method's, each ``name=value``; several names have commas between them.
        precision: None for "nf4" with QLoRA, else "bf16".

    Raises:
        ValueError: an unknown model, method or setting, or what :func:`pefteach.memory.rehearse.rehearse` refuses.
    """
    how = find_method(method, settings)
    precision = precision or ("nf4" if method.lower() == QLORA else "bf16")
    step = rehearse(
        find_config(model, length + (how.extra_tokens() if isinstance(how, Method) else 0)), how, batch, length,
        precision=precision, checkpointing=checkpointing, optimizer=optimizer,
    )  # fmt: skip
    if as_json:
        asked = {
            "model": model, "method": method, "settings": list(settings), "batch": batch, "length": length,
            "precision": precision, "checkpointing": checkpointing, "optimizer": optimizer,
        }  # fmt: skip
        rich.print_json(data={**asked, "bytes": asdict(step), "fits": fits(step)})
        return
    how_blocks = ", blocks computed again" if checkpointing else ""
    print(f"{method} on {model}: {batch} × {length} tokens, base in {precision}, {optimizer}{how_blocks}")
    rich.print(table(step))
    print(*notes(step), sep="\n")


def fits(step: Bytes) -> dict[int, bool]:
    """By the GB of a card (10^9 bytes): whether it holds the peak."""
    return {card: step.peak is not None and step.peak <= card * 10**9 for card in CARDS}


def table(step: Bytes) -> Table:
    """The bytes by phase, their peak, and the cards."""
    drawn = Table("", "GiB")
    drawn.columns[1].justify = "right"
    for phase in ("weights", "gradients", "optimizer", "activations"):
        drawn.add_row(phase, f"{getattr(step, phase) / GIB:.3f}")
    drawn.add_section()
    drawn.add_row("peak", f"{(step.peak or 0) / GIB:.3f}")
    drawn.add_section()
    for card, holds in fits(step).items():
        drawn.add_row(f"fits {card} GB", "yes" if holds else "no")
    return drawn


def notes(step: Bytes) -> list[str]:
    """What the table leaves out."""
    found = [
        "The peak is the most at any moment of a step. A GPU takes about 0.5 GB more for itself.",
        f"A method that trains the base in place keeps a copy of what trains, {step.gradients / GIB:.3f} GiB.",
    ]
    if step.paged:
        found.append(f"Of the optimizer, {step.paged / GIB:.3f} GiB leave the GPU when it needs the room.")
    return found


def find_method(name: str, settings: Sequence[str]) -> Any:
    """The method of a name with its settings.

    Raises:
        ValueError: an unknown name or setting, or a value of the wrong kind.
    """
    if name.lower() == QLORA:
        method: Any = partial(partial, prepare_qlora)
        kinds = {"rank": "int", "alpha": "float", "dropout": "float"}
    elif name.lower() in NAMES:
        method = NAMES[name.lower()]
        kinds = {field.name: str(field.type) for field in fields(method) if "Mapping" not in str(field.type)}
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
        return method(**values)
    except TypeError as error:
        raise ValueError(f"{name} needs another setting: {error}") from None


def _value(key: str, text: str, kind: str) -> Any:
    """A setting's value. ``kind`` is its annotation, such as "int | None" or "str | Sequence[str]"."""
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
