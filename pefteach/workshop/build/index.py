"""The first page of the course: a map of the lessons, and what the learner has done."""

from __future__ import annotations

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pefteach.lessons.catalogue import LESSONS, Lesson
from pefteach.workshop.build.links import lesson_link
from pefteach.workshop.build.stored import metadata

TITLE = "Learn parameter-efficient fine-tuning by building it"

WELCOME = """\
# {title}

Welcome! In every lesson you build one technique in a few lines of PyTorch, on a small language model that runs on this
computer. Open a lesson, run its cells from top to bottom with **Shift+Enter**, and then do its exercises: a check tells
you at once what is wrong and why.

**New here? Start with {first}.**

| | Lesson | What it holds | Time | Read first | Exercises |
|--:|:--|:--|--:|:-:|:--|
{rows}
"""

TO_COME = "\nThe numbers that are missing are lessons to come.\n"

PROGRESS = """\
## Your progress

Click the cell below and press **Shift+Enter**. What you have done is remembered on this computer only."""


def make_index() -> NotebookNode:
    """The index, without outputs: it holds nothing of the person who ran it."""
    welcome = WELCOME.format(title=TITLE, first=lesson_link(LESSONS[0]), rows="\n".join(map(_row, LESSONS)))
    if len(LESSONS) < LESSONS[-1].number:
        welcome += TO_COME
    cells = [
        new_markdown_cell(welcome.rstrip(), id="welcome"),
        new_markdown_cell(PROGRESS, id="progress-heading"),
        new_code_cell("from pefteach.lessons import progress\n\nprogress()", id="progress"),
    ]
    return new_notebook(cells=cells, metadata=metadata(TITLE))


def _row(lesson: Lesson) -> str:
    numbers = {other.number: other.name for other in LESSONS}
    needs = ", ".join(f"[{number}]({numbers[number]}.ipynb)" for number in lesson.needs) or "–"
    count, minutes = len(lesson.exercises), sum(exercise.minutes for exercise in lesson.exercises)
    exercises = f"[{_unbroken(f'{count} in {minutes} min')}](exercises/{lesson.name}.ipynb)"
    title = f"**[{lesson.title}]({lesson.name}.ipynb)**"
    cells = (lesson.number, title, lesson.holds, _unbroken(f"{lesson.minutes} min"), needs, exercises)
    return f"| {' | '.join(map(str, cells))} |"


def _unbroken(text: str) -> str:
    """The text with blanks at which no line is broken."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")
