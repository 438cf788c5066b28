"""The masters: a lesson's exercises as one notebook in nbgrader's source format, with solutions and hidden tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pefteach.exercises.exercise import PREAMBLE, Exercise
from pefteach.lessons.catalogue import Lesson
from pefteach.paths import COURSE
from pefteach.workshop.build.links import end_of_exercises, exercises_title, lesson_link, lesson_title
from pefteach.workshop.build.stored import differs, metadata, store

HIDDEN_SEEDS = (11, 12)
VISIBLE_POINTS, HIDDEN_POINTS = 1, 2

FRAME = """\
# {title}

**Goal:** {goal}.

**Time:** about {minutes} minutes for {count} exercises. **Read first:** {lesson}.

How it works:

1. Put your code where a cell says `# YOUR CODE HERE`, in place of the line below it. Run the cell.
2. Run the check below it, as often as you like. It runs your code beside a right answer, tells you which mistake it
   recognises, and shows the call, what was expected and what came back. `check("{first}").arguments` holds what your
   code was called with, to try it by hand.
3. Stuck? `hint("{first}")` gives one hint after the other; `solution("{first}")` gives a right answer once you have
   tried.

Any right answer counts, however it is written. A check of code you have not written yet says "not attempted", and
its cell ends with an error: that is how the notebook is graded in a class, and nothing is broken. What you have done is
remembered on this computer only; `progress()` shows it.
"""

SETUP = PREAMBLE + "\nfrom pefteach.lessons import check, hint, progress, solution"

HELP = """\
# Stuck? Remove the # in front of one of these and run the cell.
# hint("{name}")
# solution("{name}")"""

VISIBLE = """\
verdict = check("{name}")
display(verdict)
assert verdict.right, verdict.title"""

HIDDEN = """\
# Other numbers and shapes are tried here when the notebook is graded in a class.
### BEGIN HIDDEN TESTS
for seed in {seeds}:
    verdict = check("{name}", seed=seed)
    assert verdict.right, verdict
### END HIDDEN TESTS"""


def write_masters(folder: Path, lessons: Iterable[Lesson]) -> list[Path]:
    """Write ``folder/NN_name/NN_name.ipynb`` for every lesson: what nbgrader expects in its folder ``source``.

    Returns:
        The files that were written; a file that is there already and holds the same is left alone.

    Raises:
        ValueError: the folder is inside the course, or has files of these names that hold something else. Then
            nothing is written.
    """
    if Path(folder).resolve().is_relative_to(COURSE.resolve()):
        raise ValueError(f"{folder} is inside the course, where no solution may lie: name another folder")
    masters = {Path(folder) / lesson.name / f"{lesson.name}.ipynb": make_master(lesson) for lesson in lessons}
    new = {file: master for file, master in masters.items() if differs(file, master)}
    if taken := [str(file) for file in new if file.exists()]:
        raise ValueError(f"{', '.join(taken)} would be overwritten: move it away, or name another folder")
    for file, master in new.items():
        store(file, master)
    return list(new)


def make_master(lesson: Lesson, links: bool = False) -> NotebookNode:
    """The master of a lesson's exercises: statements, solutions, visible and hidden tests.

    Args:
        links: link to the lessons, which holds in ``course/exercises`` only.
    """
    group, title = lesson.exercise_set, exercises_title(lesson)
    frame = FRAME.format(
        title=title,
        goal=group.goal,
        minutes=sum(exercise.minutes for exercise in group.exercises),
        count=len(group.exercises),
        lesson=lesson_link(lesson, "../") if links else lesson_title(lesson),
        first=group.exercises[0].name,
    )
    cells = [new_markdown_cell(frame.rstrip(), id="frame"), new_code_cell(SETUP, id="setup")]
    for number, exercise in enumerate(group.exercises, 1):
        cells += _cells(number, exercise)
    cells += [
        new_markdown_cell(f"## Done?\n\n{group.closing}", id="closing"),
        new_code_cell("progress()", id="progress"),
    ]
    if links:
        cells.append(new_markdown_cell(end_of_exercises(lesson), id="links"))
    return new_notebook(cells=cells, metadata=metadata(title))


def _cells(number: int, exercise: Exercise) -> list[NotebookNode]:
    name = exercise.name
    heading = f"## {number}. {exercise.title}\n\n*{exercise.level}, about {exercise.minutes} minutes*"
    hidden = HIDDEN.format(name=name, seeds=HIDDEN_SEEDS)
    return [
        new_markdown_cell(f"{heading}\n\n{exercise.statement.strip()}", id=f"{name}-statement"),
        _graded(exercise.code.strip(), name, solution=True),
        new_code_cell(HELP.format(name=name), id=f"{name}-help"),
        _graded(VISIBLE.format(name=name), f"{name}-check", points=VISIBLE_POINTS),
        _graded(hidden, f"{name}-more", points=HIDDEN_POINTS),
    ]


def _graded(source: str, grade_id: str, points: int | None = None, solution: bool = False) -> NotebookNode:
    """A cell that nbgrader knows: the student's own, or a locked test worth some points."""
    known = {"grade": not solution, "grade_id": grade_id, "locked": not solution, "schema_version": 3,
             "solution": solution, "task": False}  # fmt: skip
    if points is not None:
        known["points"] = points
    return new_code_cell(source, id=grade_id, metadata={"nbgrader": known})
