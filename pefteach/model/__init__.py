"""The transformer of lesson 1, and the base that ships with the course.

``decoder.py`` is the model, ``generation.py`` continues a text with it, ``loss.py`` is the loss of its training, and
``base.py`` opens the base. ``modules.py``, ``modes.py`` and ``recompute.py`` serve models of any family.
"""

from pefteach.model.base import load_base
from pefteach.model.decoder import Config, Decoder, KVCache, Output
from pefteach.model.generation import generate
from pefteach.model.loss import next_token_loss

__all__ = ["Config", "Decoder", "KVCache", "Output", "generate", "load_base", "next_token_loss"]
