"""One file per technique; ``method.py`` is what they share."""

from pefteach.methods.lora import LoRA
from pefteach.methods.method import Adapter, Method, activate, adapters, attach, detach
from pefteach.methods.selective import BitFit, FullFineTuning, LastLayers, Norms

METHODS: tuple[type[Method], ...] = (FullFineTuning, LastLayers, Norms, BitFit, LoRA)

__all__ = [m.__name__ for m in METHODS] + ["METHODS", "Adapter", "Method", "activate", "adapters", "attach", "detach"]
