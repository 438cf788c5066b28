"""The text that the course trains on, all of it made here.

- ``stories.py``: tells children's stories from the plots in ``data/stories``.
- ``skills.py``: makes exact string tasks, such as reversing letters.
- ``tokenizer.py``: trains the base's tokenizer, and opens it.
- ``batches.py``: turns text into batches of tensors.

The names below are those that most lessons use. The names of ``stories.py`` are imported from that file, because it
needs YAML and most programs need no stories.
"""

from pefteach.corpus.batches import Example, collate, encode, prompts
from pefteach.corpus.skills import NEW_SKILLS, SKILLS, by_examples, by_token
from pefteach.corpus.tokenizer import load_tokenizer

__all__ = [
    "NEW_SKILLS", "SKILLS", "Example", "by_examples", "by_token", "collate", "encode", "load_tokenizer", "prompts",
]  # fmt: skip
