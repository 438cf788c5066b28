"""All exercises there are."""

from __future__ import annotations

import difflib

from pefteach.exercises import finetuning_cost, lora, qlora, transformer_review
from pefteach.exercises.exercise import Exercise

SETS = (transformer_review.SET, finetuning_cost.SET, lora.SET, qlora.SET)


def find(name: str) -> Exercise:
    """The exercise of this name.

    Raises:
        ValueError: there is none; the message lists the nearest names.
    """
    known = {exercise.name: exercise for group in SETS for exercise in group.exercises}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(str(name), known, 3) or list(known)
    raise ValueError(f"there is no exercise called {name!r}; did you mean {' or '.join(near)}?")
