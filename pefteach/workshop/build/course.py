"""``pefteach build``: makes or checks all that lies in ``course/``."""

from __future__ import annotations

import sys

from nbformat import NotebookNode

from pefteach.lessons.catalogue import LESSONS, Lesson, lessons_named
from pefteach.paths import COURSE
from pefteach.workshop.build.index import make_index
from pefteach.workshop.build.lessons import build_lesson, check_lesson
from pefteach.workshop.build.links import INDEX, end_of_lesson
from pefteach.workshop.build.masters import make_master
from pefteach.workshop.build.stored import differs, store
from pefteach.workshop.build.students import student_version
from pefteach.workshop.clone import need_clone


def build_course(names: list[str], check: bool) -> int:
    """Build the named lessons; without names all of them, the index and the exercises.

    Args:
        names: lessons, such as "07_lora".
        check: run and write nothing; find what is not as a build would write it.

    Returns:
        An exit status: 0, or 1 if a lesson raised or something is stale. What it was is printed.

    Raises:
        ValueError: a name that is no lesson; nbgrader is not installed; this is no clone of the repository.
    """
    need_clone("build")
    problems = [sentence for lesson in lessons_named(names) if (sentence := _lesson_problem(lesson, check))]
    if not names:
        others = _other_problems(check)
        print("\n".join(others), file=sys.stderr, end="\n" if others else "")
        problems += others
    return 1 if problems else 0


def unrun() -> dict[str, NotebookNode]:
    """The notebooks that are stored without being run, by their place in the course: the index and the exercises.

    Raises:
        ValueError: nbgrader is not installed.
    """
    exercises = {
        f"exercises/{lesson.name}.ipynb": student_version(make_master(lesson, links=True)) for lesson in LESSONS
    }
    return {INDEX: make_index(), **exercises}


def _lesson_problem(lesson: Lesson, check: bool) -> str:
    """Build or check one lesson; print and return what is wrong, or an empty text."""
    out, end = COURSE / f"{lesson.name}.ipynb", end_of_lesson(lesson)
    try:
        if check:
            check_lesson(lesson.source, out, end)
        else:
            timing = build_lesson(lesson.source, out, end)
            slowest = f"slowest is cell {timing.slowest_cell} with {timing.slowest_seconds:.1f} s"
            print(f"{lesson.name}: {timing.seconds:.1f} s, {slowest}", flush=True)
    except ValueError as error:
        print(error, file=sys.stderr, flush=True)
        return str(error)
    return ""


def _other_problems(check: bool) -> list[str]:
    """Store or check the notebooks that are not run, and find those that nothing builds."""
    notebooks = {COURSE / name: notebook for name, notebook in unrun().items()}
    stale = [file for file, notebook in notebooks.items() if differs(file, notebook)]
    if not check:
        for file in stale:
            store(file, notebooks[file])
        stale = []
    known = {*notebooks, *(COURSE / f"{lesson.name}.ipynb" for lesson in LESSONS)}
    orphans = sorted(file for file in COURSE.rglob("*.ipynb") if file not in known and "." not in file.parent.name)
    place = lambda file: file.relative_to(COURSE).as_posix()
    return [
        *(f"{place(file)} belongs to no lesson of the catalogue: delete it" for file in orphans),
        *(f"{place(file)} is stale: run `pefteach build`" for file in stale),
    ]
