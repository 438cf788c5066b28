"""Read and write adapters in peft's own format: ``adapter_config.json`` and ``adapter_model.safetensors``.

Where peft has the method, ``PeftModel.from_pretrained`` opens what :func:`save_adapter` writes, and
:func:`load_adapter` opens what peft's ``save_pretrained`` writes. Where peft lacks it (BitFit …), the same two files
carry our own name for the method. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pefteach.methods import METHODS, Adapter, Method, attach
from pefteach.methods.core.adapter import find_adapter
from pefteach.training.sharding import whole

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    name: str = "default",
    *,
    base_model: str | None = None,
    write: bool = True,
) -> None:
    """Write one adapter of the model into a folder.

    Args:
        base_model: where the model comes from; peft's ``AutoPeftModel`` then opens both.
        write: False in all processes of a sharded run but one. All must call this: each holds a share of the tensors.

    Raises:
        ValueError: no adapter of that name.
    """
    adapter = find_adapter(model, name)
    folder = Path(folder)
    config = {
        "base_model_name_or_path": base_model,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
    } | adapter.to_peft()
    tensors = {key: whole(t.detach()).cpu().contiguous() for key, t in adapter.file_tensors().items()}
    if not write:
        return
    folder.mkdir(parents=True, exist_ok=True)
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
    tensors = read_tensors(folder / WEIGHTS)

    def fill(adapter: Adapter) -> None:
        try:
            adapter.load_tensors(tensors)
        except ValueError as error:
            raise ValueError(f"{folder} {error}") from None

    return attach(model, method, name, fill)


def _method(config: dict, folder: Path) -> Method:
    for method in METHODS:
        if method.reads(config):
            return method.from_peft(config)
    kind = config.get("peft_type") or config.get("method")
    raise ValueError(
        f"{folder / CONFIG} describes {kind!r}; this version opens {', '.join(m.__name__ for m in METHODS)}"
    )


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        ValueError: a damaged file, or one that was altered after we wrote it.
    """
    try:
        with safe_open(file, "pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}
            expected = (stored.metadata() or {}).get("sha256")  # peft's own files carry none
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or not a safetensors file ({error})") from None
    if expected and expected != _digest(tensors):
        raise ValueError(f"{file} was altered after it was saved: its checksum does not match")
    return tensors


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
