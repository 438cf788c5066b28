"""``pefteach convert``: rewrites an adapter in another library's format, or merges it into a whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pefteach.interop import adapters_files, peft_files
from pefteach.methods import detach
from pefteach.methods.core.adapter import find_adapter
from pefteach.methods.core.tensor_adapter import TensorAdapter
from pefteach.model.base import load_base
from pefteach.model.modules import base_state

FORMATS = ("peft", "adapters", "merged")


def convert(source: str | Path, out: str | Path, to: str, model: str | None = None) -> str:
    """Attach the adapter in ``source`` to its model, and write it to ``out`` in another format.

    Loading checks the adapter: every tensor must have its place in the model, and every place its tensor.

    Args:
        source: a folder written by peft, by adapters (with safetensors) or by this package.
        to: "peft", "adapters", or "merged": the whole model with the adapter in its weights.
        model: a Hugging Face causal model, by name or folder; by default the course's base.

    Returns:
        One sentence that says what was written.

    Raises:
        FileNotFoundError: no adapter in ``source``, or no such model.
        ValueError: an unknown format, missing or unexpected tensors, a method that the format does not have or that
            cannot be merged, or an ``out`` that is not empty.
    """
    source, out = Path(source), Path(out)
    if to not in FORMATS:
        raise ValueError(f"there is no format {to!r}: choose one of {', '.join(FORMATS)}")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: name a new folder, so that nothing is overwritten")
    base = open_model(model)
    by_adapters = any((source / name).exists() for name in (adapters_files.WEIGHTS, adapters_files.PICKLE))
    load = adapters_files.load_from_adapters if by_adapters else peft_files.load_adapter
    method = type(load(base, source).method).__name__
    if to == "peft":
        peft_files.save_adapter(base, out)
    elif to == "adapters":
        adapters_files.save_to_adapters(base, out)
    else:
        save_merged(base, out)
    return f"{source} ({'adapters' if by_adapters else 'peft'}, {method}) is written to {out} ({to})"


def open_model(model: str | None) -> Any:
    """The course's base, or a Hugging Face causal model.

    Raises:
        FileNotFoundError: no model can be opened under that name.
    """
    if model is None:
        return load_base()[0]
    import transformers

    try:
        return transformers.AutoModelForCausalLM.from_pretrained(model)
    except (OSError, ValueError) as error:  # transformers raises ValueError for a malformed name
        raise FileNotFoundError(f"cannot open the model {model!r}: {str(error).splitlines()[0]}") from None


def save_merged(model: Any, out: Path, name: str = "default") -> None:
    """Write the whole model with an adapter in its weights, as if it had never been an adapter, and detach it.

    Raises:
        ValueError: the adapter cannot be merged, or has tensors that the bare model has no place for.
    """
    adapter = find_adapter(model, name)
    if not isinstance(adapter, TensorAdapter):  # its tensors are in the weights already
        adapter.merge()
    merged = {key: tensor.clone() for key, tensor in base_state(model).items()}
    detach(model, name)
    if extra := merged.keys() - model.state_dict().keys():
        raise ValueError(f"the bare model has no place for {', '.join(sorted(extra))}")
    model.load_state_dict(merged)
    model.save_pretrained(out)
