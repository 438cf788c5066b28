"""The masters: one notebook per set of exercises, in nbgrader's source format."""

from __future__ import annotations

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pefteach.exercises.exercise import PREAMBLE, Exercise, ExerciseSet

HIDDEN_SEEDS = (11, 12)
VISIBLE_POINTS, HIDDEN_POINTS = 1, 2

FRAME = """\
# Exercises: {title}

**Goal:** {goal}.

**Time:** about {minutes} minutes for {count} exercises. **Read first:** [the lesson](../../../{lesson}.ipynb).

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


def make_master(group: ExerciseSet) -> NotebookNode:
    """The master of a set: statements, solutions, visible and hidden tests. The same set gives the same bytes."""
    minutes = sum(exercise.minutes for exercise in group.exercises)
    count, first = len(group.exercises), group.exercises[0].name
    frame = FRAME.format(
        title=group.title, goal=group.goal, minutes=minutes, count=count, lesson=group.lesson, first=first
    )
    cells = [new_markdown_cell(frame.rstrip(), id="frame"), new_code_cell(SETUP, id="setup")]
    for number, exercise in enumerate(group.exercises, 1):
        cells += _cells(number, exercise)
    closing = new_markdown_cell(f"## Done?\n\n{group.closing}", id="closing")
    cells += [closing, new_code_cell("progress()", id="progress")]
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


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
