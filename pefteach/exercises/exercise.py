"""An exercise as data, and the seeded numbers that its inputs are made of."""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pefteach.exercises.subject import Subject, call_text

PREAMBLE = "import math\n\nimport torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
"""The imports that every answer may use; the notebook's first cell runs the same ones."""

NOT_DONE = "# YOUR CODE HERE\nraise NotImplementedError()"
"""What nbgrader writes in place of a solution."""


class Draw:
    """A seeded source of numbers for inputs: the same seed gives the same numbers."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float32."""
        return torch.randn(*shape, generator=self.generator)

    def integer(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def sizes(self, count: int, low: int = 2, high: int = 9) -> list[int]:
        """Different sizes: equal ones would hide a transposed matrix."""
        return (low + torch.randperm(high - low + 1, generator=self.generator)[:count]).tolist()


Inputs = dict[str, Any]
Observe = Callable[[Subject, str, Inputs], Iterator[tuple[str, Any]]]


def call_function(subject: Subject, name: str, inputs: Inputs) -> Iterator[tuple[str, Any]]:
    """Call the function once with the inputs' values, in their order."""
    yield call_text(name, inputs), subject.call(name, inputs)


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that people give.

    Args:
        name: two or three words.
        edits: what the reference says, and what is written in its place.
        message: one or two kind sentences that name the mistake and point to the way out.
    """

    name: str
    edits: dict[str, str]
    message: str


@dataclass(frozen=True, eq=False)  # compared as an object, so that what it makes can be kept
class Exercise:
    """One function or class to write, and all that is needed to judge an answer.

    Args:
        name: of the function or class to be defined; also the exercise's own.
        title, minutes, level, statement: what the notebook says above it; the level is warm-up, core or stretch.
        code: the definition, with the student's part between ``### BEGIN SOLUTION`` and ``### END SOLUTION``.
        inputs: makes sets of inputs, of sizes at which every mistake shows. A set is the arguments by name.
        mistakes: at least five, each with its own message.
        accepted: at least three right answers written in other ways.
        hints: from a nudge to almost the answer.
        remark: what to say after a right answer.
        observe: what is looked at for one set of inputs: pairs of a description and a value. Values must not depend on
            random numbers that the student's code draws.
    """

    name: str
    title: str
    minutes: int
    level: str
    statement: str
    code: str
    inputs: Callable[[Draw], Iterable[Inputs]]
    mistakes: tuple[Mistake, ...]
    accepted: tuple[str, ...]
    hints: tuple[str, ...]
    remark: str
    observe: Observe = call_function

    @property
    def reference(self) -> str:
        """The right answer, as source code."""
        return re.sub(r"^ *### (BEGIN|END) SOLUTION\n", "", self.code.lstrip("\n"), flags=re.M)

    @property
    def stub(self) -> str:
        """What the student starts from."""
        region = r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION\n"
        return re.sub(region, _not_done, self.code.lstrip("\n"), flags=re.M | re.S)

    def wrong_answer(self, mistake: Mistake) -> str:
        """The reference with a mistake made in it.

        Raises:
            ValueError: the reference does not say what the mistake is to replace.
        """
        source = self.reference
        for right, wrong in mistake.edits.items():
            if right not in source:
                raise ValueError(f"exercise {self.name!r}, mistake {mistake.name!r}: the reference has no {right!r}")
            source = source.replace(right, wrong)
        return source


def _not_done(region: re.Match[str]) -> str:
    return "".join(f"{region[1]}{line}\n" for line in NOT_DONE.splitlines())


@dataclass(frozen=True)
class ExerciseSet:
    """The exercises that go with one lesson: one notebook.

    Args:
        goal: what you write in it, as the end of a sentence.
        closing: what to read or do next.
    """

    goal: str
    exercises: tuple[Exercise, ...]
    closing: str


def namespace_of(source: str) -> dict[str, Any]:
    """The names that a piece of source code defines, with the usual imports."""
    namespace: dict[str, Any] = {"__name__": "answer"}
    exec(_compiled(source), namespace)
    return namespace


@functools.cache
def _compiled(source: str) -> types.CodeType:
    return compile(PREAMBLE + source, "<answer>", "exec")
