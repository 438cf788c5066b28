"""All lessons there are, in order. A lesson is one folder beside this file; this is the only list of them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from pefteach.exercises.exercise import Exercise, ExerciseSet
from pefteach.lessons.finetuning_and_its_cost.exercises import SET as FINETUNING_SET
from pefteach.lessons.lora.exercises import SET as LORA_SET
from pefteach.lessons.qlora.exercises import SET as QLORA_SET
from pefteach.lessons.transformer_review.exercises import SET as TRANSFORMER_SET


@dataclass(frozen=True)
class Lesson:
    """One lesson.

    Attributes:
        number: its place in the course.
        folder: its folder below ``pefteach/lessons``.
        exercises: the exercises that go with it.
    """

    number: int
    folder: str
    exercises: ExerciseSet

    @property
    def name(self) -> str:
        """The name of its notebooks, without their ending: "07_lora"."""
        return f"{self.number:02}_{self.folder}"

    @property
    def source(self) -> Path:
        """The script that its notebook is built from."""
        return Path(__file__).parent / self.folder / "lesson.py"

    @property
    def explorer(self) -> ModuleType:
        """The module of its explorer."""
        return import_module(f"pefteach.lessons.{self.folder}.explorer")


LESSONS = (
    Lesson(1, "transformer_review", TRANSFORMER_SET),
    Lesson(2, "finetuning_and_its_cost", FINETUNING_SET),
    Lesson(7, "lora", LORA_SET),
    Lesson(9, "qlora", QLORA_SET),
)

SETS = tuple(lesson.exercises for lesson in LESSONS)


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
