"""Parameter-efficient fine-tuning, every technique from scratch in readable PyTorch.

    from pefteach import LoRA, attach, evaluate, fit, load_base

    model, tokenizer = load_base()
    attach(model, LoRA(rank=8))
    fit(model, examples, steps=100, lr=1e-3)

Here are the methods and the functions that most people use; each room of the package says what else it has. A room is
imported when a name of it is first asked for, so that ``import pefteach`` takes no time.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

ROOMS = {
    "model": ("generate", "load_base", "next_token_loss"),
    "methods": ("activate", "attach", "attached", "detach", "mixed_batch"),  # and every method, by its class's name
    "training": ("evaluate", "fit"),
    "quant": ("dequantise", "load_in_4bit", "quantise"),
    "interop": ("load_adapter", "save_adapter"),
    "measure": ("measure_method",),
    "memory": ("measure_step", "plan_step", "rehearse_step"),
}


def __getattr__(name: str) -> Any:
    of_methods = "methods" if name[0].isupper() else None
    room = next((room for room, names in ROOMS.items() if name in names), of_methods)
    if room is None or name not in (shown := import_module(f"pefteach.{room}")).__all__:
        raise AttributeError(f"pefteach has no {name!r}")
    return getattr(shown, name)
