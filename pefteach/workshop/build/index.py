"""The first page of the course: a map of the lessons, and what the learner has done."""

from __future__ import annotations

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pefteach.lessons.catalogue import LESSONS, Lesson
from pefteach.workshop.build.stored import metadata

TITLE = "Learn parameter-efficient fine-tuning by building it"

WELCOME = """\
# {title}

Welcome! In every lesson you build one technique in a few lines of PyTorch, on a small language model that runs on this
computer. Open a lesson, run its cells from top to bottom with **Shift+Enter**, and then do its exercises: a check tells
you at once what is wrong and why.

| | Lesson | What it holds | Minutes | Read first | Exercises |
|--:|:--|:--|--:|:--|:--|
{rows}
"""

PROGRESS = """\
## Your progress

Click the cell below and press **Shift+Enter**. What you have done is remembered on this computer only."""


def make_index() -> NotebookNode:
    """The index, without outputs: it holds nothing of the person who ran it."""
    rows = "\n".join(map(_row, LESSONS))
    cells = [
        new_markdown_cell(WELCOME.format(title=TITLE, rows=rows).rstrip(), id="welcome"),
        new_markdown_cell(PROGRESS, id="progress-heading"),
        new_code_cell("from pefteach.lessons import progress\n\nprogress()", id="progress"),
    ]
    return new_notebook(cells=cells, metadata=metadata(TITLE))


def _row(lesson: Lesson) -> str:
    numbers = {other.number: other.name for other in LESSONS}
    needs = ", ".join(f"[{number}]({numbers[number]}.ipynb)" for number in lesson.needs)
    minutes = sum(exercise.minutes for exercise in lesson.exercises)
    exercises = f"[{len(lesson.exercises)} exercises](exercises/{lesson.name}.ipynb), {minutes} minutes"
    title = f"**[{lesson.title}]({lesson.name}.ipynb)**"
    return f"| {lesson.number} | {title} | {lesson.holds} | {lesson.minutes} | {needs} | {exercises} |"
