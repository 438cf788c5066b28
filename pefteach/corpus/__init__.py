"""The text that the course trains on, all of it made here.

- ``stories.py``: tells children's stories from the plots in ``data/stories``.
- ``skills.py``: makes exact string tasks, such as reversing letters.
- ``tokenizer.py``: trains the base's tokenizer, and opens it.
- ``batches.py``: turns text into batches of tensors.
"""

from pefteach.corpus.batches import IGNORE, Example, collate, encode, prompts
from pefteach.corpus.skills import NEW_SKILLS, SKILLS, by_examples, by_token
from pefteach.corpus.stories import Plot, Story, plots, tell
from pefteach.corpus.tokenizer import load_tokenizer

__all__ = [
    "IGNORE", "NEW_SKILLS", "SKILLS", "Example", "Plot", "Story", "by_examples", "by_token", "collate", "encode",
    "load_tokenizer", "plots", "prompts", "tell",
]  # fmt: skip
