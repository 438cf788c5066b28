"""What a notebook of exercises calls: ``check``, ``hint``, ``solution`` and ``progress``, by an exercise's name."""

from __future__ import annotations

import sys
from typing import Any

import torch

from pefteach.exercises.engine import judge
from pefteach.exercises.progress import Progress
from pefteach.exercises.subject import Subject
from pefteach.exercises.verdict import CANNOT_CHECK, RIGHT, WRONG, Note, Verdict, verdict
from pefteach.exercises.worker import Worker
from pefteach.lessons.catalogue import LESSONS, find

MARKS = {RIGHT: "✓", WRONG: "✗"}  # in the list of what was done; all else is still open


def check(name: str, *, seed: int = 0, namespace: dict[str, Any] | None = None) -> Verdict:
    """Check what the notebook defines under an exercise's name. It never raises.

    Args:
        name: the exercise, such as "lora_forward".
        seed: other seeds try other numbers and shapes; the same seed tries the same ones again.
        namespace: where to look; by default where the call stands, which in a notebook is the notebook.
    """
    namespace = sys._getframe(1).f_globals if namespace is None else namespace
    try:
        exercise = find(name)
    except ValueError as error:
        return verdict(CANNOT_CHECK, str(name), str(error))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        result = judge(exercise, Subject(Worker(namespace).do), seed)
    Progress().record(name, result.status)
    return result


def hint(name: str) -> Note:
    """The next hint for an exercise. The last hint is repeated."""
    try:
        exercise = find(name)
    except ValueError as error:
        return Note(f"! No hint: {name}", str(error))
    count = len(exercise.hints)
    number = min(Progress().next_hint(name), count)
    more = f"hint({name!r}) gives another." if number < count else f"That was the last; there is solution({name!r})."
    return Note(f"Hint {number} of {count}: {name}", f"{exercise.hints[number - 1]}\n{more}")


def solution(name: str) -> Note:
    """One right answer, once there has been an attempt."""
    try:
        exercise = find(name)
    except ValueError as error:
        return Note(f"! No solution: {name}", str(error))
    progress = Progress()
    if not progress.attempted(name):
        return Note(f"… Not yet: {name}", f"Try it first, and run check({name!r}): even a wrong answer will do.")
    progress.saw_solution(name)
    return Note(f"One right answer: {name}", exercise.remark, tuple(exercise.reference.splitlines()))


def progress() -> Note:
    """Which exercises are right already: a line per lesson, and one per exercise of a lesson that was begun."""
    stored, lines, right = Progress(), [], []
    for lesson in LESSONS:
        entries = {exercise.name: stored.entry(exercise.name) for exercise in lesson.exercises}
        marks = {name: MARKS.get(entry["status"], "○") for name, entry in entries.items()}
        done = sum(entry["status"] == RIGHT for entry in entries.values())
        lines.append(f"{''.join(marks.values()):8} {done} of {len(entries)}  {lesson.number}. {lesson.title}")
        if any(entry["tries"] for entry in entries.values()):
            for name, entry in entries.items():
                tries = f" (tries: {entry['tries']})" if entry["tries"] else ""
                lines.append(f"  {marks[name]} {name}: {entry['status']}{tries}")
        right += [entry["status"] == RIGHT for entry in entries.values()]
    return Note("Your progress", f"{sum(right)} of {len(right)} exercises are right.", tuple(lines))
