"""Adapters on disk, in peft's own format: ``adapter_config.json`` and ``adapter_model.safetensors``.

Where peft has the method, ``PeftModel.from_pretrained`` opens what :func:`save_adapter` writes, and
:func:`load_adapter` opens what peft's ``save_pretrained`` writes. Where it has not (BitFit …), the same two files
carry our own name for the method. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pefteach.methods import METHODS, Adapter, Method, adapters, attach
from pefteach.methods.method import TensorAdapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(model: nn.Module, folder: str | Path, name: str = "default") -> None:
    """Write one adapter of the model into a folder.

    Raises:
        ValueError: no adapter of that name.
    """
    known = adapters(model)
    if name not in known:
        raise ValueError(f"no adapter named {name!r} here; attached are: {', '.join(known) or 'none'}")
    adapter = known[name]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "base_model_name_or_path": None,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
    } | adapter.method.to_peft()
    tensors = {key: t.detach().cpu().contiguous() for key, t in _values(adapter).items()}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", "sha256": _digest(tensors)})


def load_adapter(model: nn.Module, folder: str | Path, name: str = "default") -> Adapter:
    """Attach the adapter stored in a folder.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a damaged or altered file, an unknown method, tensors that do not fit this model, or a name
            that is taken. The model is then unchanged.
    """
    folder = Path(folder)
    for file in (folder / CONFIG, folder / WEIGHTS):
        if not file.exists():
            raise FileNotFoundError(f"no {file.name} in {folder}")
    method = _method(json.loads((folder / CONFIG).read_text(encoding="utf-8")), folder)
    tensors = _read(folder / WEIGHTS)
    return attach(model, method, name, fill=lambda adapter: _fill(adapter, tensors, folder))


def _method(config: dict, folder: Path) -> Method:
    kind = config.get("peft_type") or config.get("method")
    for method in METHODS:
        if kind in (method.peft_type, method.__name__):
            return method.from_peft(config)
    raise ValueError(
        f"{folder / CONFIG} describes {kind!r}; this version opens {', '.join(m.__name__ for m in METHODS)}"
    )


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, "pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}
            expected = (stored.metadata() or {}).get("sha256")  # peft's own files carry none
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or not a safetensors file ({error})") from None
    if expected and expected != _digest(tensors):
        raise ValueError(f"{file} was altered after it was saved: its checksum does not match")
    return tensors


def _values(adapter: Adapter) -> Mapping[str, Tensor]:
    return adapter.values() if isinstance(adapter, TensorAdapter) else adapter.tensors()


def _fill(adapter: Adapter, tensors: dict[str, Tensor], folder: Path) -> None:
    wanted = _values(adapter)
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(
            f"{folder} does not fit this model: missing {missing or 'nothing'}, unexpected {extra or 'nothing'}"
        )
    for key, tensor in tensors.items():
        if tensor.shape != wanted[key].shape:
            raise ValueError(
                f"{folder} is for another model: {key} is {tuple(tensor.shape)}, here {tuple(wanted[key].shape)}"
            )
    with torch.no_grad():
        for key, tensor in tensors.items():
            wanted[key].copy_(tensor)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
