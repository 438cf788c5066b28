"""The one list of the course's lessons, in order. A lesson is one folder beside this file."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from pefteach.exercises.exercise import Exercise, ExerciseSet


@dataclass(frozen=True)
class Lesson:
    """One lesson of the course.

    Attributes:
        number: its place in the course, from 1 to 99.
        folder: its folder in ``pefteach/lessons``.
        title: its title, without the number.
        minutes: the time to read and run it, without the exercises.
        holds: what it teaches, in one line.
        needs: the numbers of the lessons to read first.
    """

    number: int
    folder: str
    title: str
    minutes: int
    holds: str
    needs: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The name of its notebooks, without the ending: "07_lora"."""
        return f"{self.number:02}_{self.folder}"

    @property
    def source(self) -> Path:
        """The script that its notebook is built from."""
        return Path(__file__).parent / self.folder / "lesson.py"

    @property
    def explorer(self) -> ModuleType:
        """The module of its explorer."""
        return import_module(f"pefteach.lessons.{self.folder}.explorer")

    @property
    def exercise_set(self) -> ExerciseSet:
        """What its notebook of exercises holds."""
        return import_module(f"pefteach.lessons.{self.folder}.exercises").SET

    @property
    def exercises(self) -> tuple[Exercise, ...]:
        """Its exercises, in order."""
        return self.exercise_set.exercises


LESSONS = (
    Lesson(
        1,
        "transformer_review",
        title="Transformer review",
        minutes=45,
        holds="attention, heads, norms, positions; the base opened with your own code",
    ),
    Lesson(
        2,
        "finetuning_and_its_cost",
        title="Fine-tuning and what it costs",
        minutes=40,
        holds="full and selective tuning, BitFit, bytes by phase, forgetting",
        needs=(1,),
    ),
    Lesson(
        7,
        "lora",
        title="LoRA",
        minutes=50,
        holds="the low-rank idea, rank and alpha, merging, rsLoRA, several adapters on one base",
        needs=(1, 2),
    ),
    Lesson(
        9,
        "qlora",
        title="QLoRA",
        minutes=45,
        holds="a base in 4 bits, dequantised twice per step, LoRA beside it; what bits cost; merging; a cell for a GPU",
        needs=(7,),
    ),
)


def lessons_named(names: list[str]) -> list[Lesson]:
    """The lessons of these names ("07_lora"), in the course's order; all lessons if there are no names.

    Raises:
        ValueError: a name that is no lesson.
    """
    found = {lesson.name: lesson for lesson in LESSONS}
    for name in names:
        if name not in found:
            raise ValueError(f"no lesson is called {name!r}; there are: {', '.join(found)}")
    return [lesson for name, lesson in found.items() if not names or name in names]


def find(name: str) -> Exercise:
    """The exercise of this name.

    Raises:
        ValueError: there is none; the message lists the nearest names.
    """
    known = {exercise.name: exercise for lesson in LESSONS for exercise in lesson.exercises}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(str(name), known, 3) or list(known)
    raise ValueError(f"there is no exercise called {name!r}; did you mean {' or '.join(near)}?")
