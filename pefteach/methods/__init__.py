"""All techniques, each in a file of its own; ``core/`` holds the code that they share.

``attach(model, LoRA(rank=8))`` puts a method on a model. To see what happens in a forward pass, read ``lora.py``,
``core/low_rank.py`` and ``core/wrapping.py``; to see how it is attached, detached and merged, ``core/attach.py`` and
``core/parts_adapter.py``. ``catalogue.py`` lists all techniques.
"""

from pefteach.methods.catalogue import *  # noqa: F403  the methods themselves: LoRA, PromptTuning …
from pefteach.methods.catalogue import METHODS, TECHNIQUES
from pefteach.methods.core.adapter import Adapter, Method, attached
from pefteach.methods.core.attach import activate, attach, detach
from pefteach.methods.core.mixed_batch import mixed_batch

__all__ = [
    *(method.__name__ for method in METHODS),
    "METHODS", "TECHNIQUES", "Adapter", "Method", "activate", "attach", "attached", "detach", "mixed_batch",
]  # fmt: skip
