"""Read and write the ``adapters`` library's files: ``adapter_config.json`` and ``adapter.safetensors``.

The library writes a pickle by default, which this package never opens. Make it use safetensors:

    model.save_adapter(folder, name, with_head=False, use_safetensors=True)
    model.load_adapter(folder, use_safetensors=True, set_active=True)

Prediction heads, which it writes beside the adapter, belong to the base here and are not read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from pefteach.interop.peft_files import CONFIG, read_tensors
from pefteach.methods import Adapter, HoulsbyAdapters, ParallelAdapters, PfeifferAdapters, attach
from pefteach.methods.core.adapter import find_adapter
from pefteach.methods.core.bottleneck import Bottleneck

WEIGHTS, PICKLE = "adapter.safetensors", "pytorch_adapter.bin"

# The library's switches: KINDS tell three kinds of bottleneck adapters apart, SHARED are the same for all three.
KINDS: dict[type[Bottleneck], dict[str, Any]] = {
    HoulsbyAdapters: {"mh_adapter": True, "output_adapter": True, "is_parallel": False, "original_ln_before": False},
    PfeifferAdapters: {"mh_adapter": False, "output_adapter": True, "is_parallel": False, "original_ln_before": True},
    ParallelAdapters: {"mh_adapter": False, "output_adapter": True, "is_parallel": True},
}
SHARED: dict[str, Any] = {
    "architecture": None, "original_ln_after": True, "residual_before_ln": True, "ln_before": False, "ln_after": False,
    "use_gating": False, "phm_layer": False, "inv_adapter": None, "cross_adapter": False, "leave_out": [],
    "stochastic_depth": 0.0,
}  # fmt: skip
INITS = {"near": "houlsby", "bert": "bert", "zero": "mam_adapter"}

# The library's name for the place of a part within a block.
PLACES = {
    "self_attn": "attention_adapters", "attn": "attention_adapters", "attention": "attention_adapters",
    "mlp": "output_adapters", "ffn": "output_adapters", "output_layer_norm": "output_adapters",
    "attention.output.dropout": "attention.output", "output.dropout": "output", "output.LayerNorm": "output",
}  # fmt: skip


def save_to_adapters(model: nn.Module, folder: str | Path, name: str = "default") -> None:
    """Write a bottleneck adapter for the ``adapters`` library.

    Raises:
        ValueError: no adapter has that name, or it is of another method or at places that the library does not have.
    """
    adapter = find_adapter(model, name)
    if not isinstance(adapter.method, Bottleneck):
        raise ValueError(
            f"adapter {name!r} is {type(adapter.method).__name__}: the adapters library takes only bottleneck adapters"
        )
    names, folder, config = library_names(adapter, name), Path(folder), getattr(model, "config", None)
    tensors = {names[key]: tensor.detach().cpu().contiguous() for key, tensor in adapter.file_tensors().items()}
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "config": library_config(adapter.method, model),
        "hidden_size": getattr(config, "hidden_size", None),
        "model_class": type(model).__name__,
        "model_name": None,
        "model_type": getattr(config, "model_type", "llama"),  # the course's decoder is one
        "name": name,
        "version": "adapters.1.3.0",
    }
    (folder / CONFIG).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_from_adapters(model: nn.Module, folder: str | Path, name: str = "default") -> Adapter:
    """Attach a bottleneck adapter that the ``adapters`` library wrote.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a pickle, a damaged file, a kind of adapter that is not among ours, tensors that do not fit this
            model, or a name that is taken. The model is then unchanged.
    """
    folder = Path(folder)
    if (folder / PICKLE).exists() and not (folder / WEIGHTS).exists():
        raise ValueError(
            f"{folder / PICKLE} is a pickle, which may run code when it is opened: "
            "save it again with model.save_adapter(folder, name, with_head=False, use_safetensors=True)"
        )
    for file in (folder / CONFIG, folder / WEIGHTS):
        if not file.exists():
            raise FileNotFoundError(f"no {file.name} in {folder}")
    about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    try:
        method = method_of(about)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} {error}") from None
    tensors = read_tensors(folder / WEIGHTS)

    def fill(adapter: Adapter) -> None:
        names = library_names(adapter, about["name"])
        ours = {theirs: key for key, theirs in names.items()}
        try:
            adapter.load_tensors({ours.get(key, key): tensor for key, tensor in tensors.items()})
        except ValueError as error:
            message = str(error)
            for key, theirs in names.items():
                message = message.replace(key, theirs)  # name the tensors as the file does
            raise ValueError(f"{folder} {message}") from None

    return attach(model, method, name, fill)


def library_names(adapter: Adapter, name: str) -> dict[str, str]:
    """The library's name for each of the adapter's tensors, where the adapter itself is called ``name`` there.

    Raises:
        ValueError: the library has no such place for a part.
    """
    names = {}
    for key in adapter.file_tensors():
        found = re.fullmatch(r"base_model\.model\.(.*\.\d+)\.(.+)\.(adapter_down|adapter_up|scaling)(\..+)?", key)
        if found is None or found[2] not in PLACES:
            raise ValueError(f"the adapters library has no place for {key}: a block may have {', '.join(PLACES)}")
        tensor = {"adapter_down": "adapter_down.0"}.get(found[3], found[3]) + (found[4] or "")
        names[key] = f"{found[1]}.{PLACES[found[2]]}.adapters.{name}.{tensor}"
    return names


def library_config(method: Bottleneck, model: nn.Module) -> dict[str, Any]:
    """The library's settings (its ``BnConfig``) for one of our methods."""
    D, m = method.widths(model)
    # The library takes D // reduction_factor; adding 0.5 to m keeps a rounded quotient from giving m - 1.
    reduction = method.reduction if method.size is None else D / (m if D % m == 0 else m + 0.5)
    return {
        **SHARED,
        **KINDS[type(method)],
        "reduction_factor": reduction,
        "non_linearity": method.activation,
        "init_weights": INITS[method.init],
        "scaling": method.scale if isinstance(method.scale, str) else float(method.scale),
        "dropout": method.dropout,
    }


def method_of(about: dict) -> Bottleneck:
    """The method that the library's ``adapter_config.json`` describes.

    Raises:
        ValueError: it is not among ours; the message names the settings that differ.
    """
    if not str(about.get("version")).startswith("adapters."):
        raise ValueError("was not written by adapters 1.0 or later: open it with such a version and save it again")
    config = about["config"]
    kind: type[Bottleneck] = HoulsbyAdapters if config.get("mh_adapter") else PfeifferAdapters
    kind = ParallelAdapters if config.get("is_parallel") else kind
    wanted = SHARED | KINDS[kind]
    odd = [f"{key} is {config[key]!r}" for key in wanted if config.get(key, wanted[key]) != wanted[key]]
    if not isinstance(config.get("reduction_factor"), int | float):
        odd.append(f"reduction_factor is {config.get('reduction_factor')!r}")
    if odd:
        raise ValueError(f"describes neither Houlsby's nor Pfeiffer's nor parallel adapters: {', '.join(odd)}")
    return kind(
        reduction=config["reduction_factor"],
        activation=config["non_linearity"],
        init=next((ours for ours, theirs in INITS.items() if theirs == config["init_weights"]), config["init_weights"]),
        scale=config["scaling"],
        dropout=config.get("dropout", 0.0),
    )
