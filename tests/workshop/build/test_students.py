"""Nothing in ``course/`` gives a solution away, and a notebook that did would be seen."""

import nbformat
import pytest

from pefteach.lessons.catalogue import LESSONS
from pefteach.paths import COURSE
from pefteach.workshop.build.masters import HIDDEN_SEEDS, make_master
from pefteach.workshop.build.students import student_version

pytest.importorskip("nbgrader", reason="the student versions are made by nbgrader (extra 'grade')")
NOTEBOOKS = sorted(file for file in COURSE.rglob("*.ipynb") if ".ipynb_checkpoints" not in file.parts)
MARKS = ("BEGIN SOLUTION", "END SOLUTION", "HIDDEN TESTS", f"seed in {HIDDEN_SEEDS}")


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def solution_lines(exercise) -> list[str]:
    """The lines of the right answer that the student has to write."""
    return [line for line in lines(exercise.reference) if line not in lines(exercise.stub)]


def leaks(notebook, teaches: bool) -> list[str]:
    """What a notebook says that only a master may say: its marks, and lines of right answers.

    Args:
        teaches: a lesson, which may share a line with a right answer, but may not hold all of one.
    """
    sources = "\n".join(cell.source for cell in notebook.cells)
    found = [mark for mark in MARKS if mark in sources]
    for exercise in (exercise for lesson in LESSONS for exercise in lesson.exercises):
        secret = solution_lines(exercise)
        told = [line for line in secret if line in lines(sources)]
        found += told if not teaches or told == secret else []
    return found


@pytest.mark.parametrize("file", NOTEBOOKS, ids=[file.relative_to(COURSE).as_posix() for file in NOTEBOOKS])
def test_no_notebook_of_the_course_holds_a_solution(file):
    assert leaks(nbformat.read(file, as_version=4), teaches=file.stem[0].isdigit() and file.parent == COURSE) == []


def test_every_lesson_and_every_set_of_exercises_was_looked_at():
    assert {file.relative_to(COURSE).as_posix() for file in NOTEBOOKS} == {
        "index.ipynb",
        *(f"{folder}{lesson.name}.ipynb" for lesson in LESSONS for folder in ("", "exercises/")),
    }


@pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.name for lesson in LESSONS])
def test_a_solution_would_be_seen(lesson):
    master = make_master(lesson)
    found = leaks(master, teaches=False)
    assert set(MARKS) <= set(found) and len(found) >= len(MARKS) + len(lesson.exercises)
    assert set(MARKS) <= set(leaks(master, teaches=True))
    for exercise in lesson.exercises:
        student = student_version(master)
        cell = next(cell for cell in student.cells if cell.id == exercise.name)
        for line in solution_lines(exercise):
            cell.source = f"{exercise.stub}\n{line}"
            assert leaks(student, teaches=False), "one line is enough"
        cell.source = exercise.reference
        assert leaks(student, teaches=True)
