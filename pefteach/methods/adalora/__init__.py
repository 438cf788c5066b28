"""AdaLoRA: ``adalora.py`` has the equation, ``training.py`` how ranks move, ``importance.py`` by which scores."""

from pefteach.methods.adalora.adalora import AdaLoRA, AdaLoRAPart

__all__ = ["AdaLoRA", "AdaLoRAPart"]
