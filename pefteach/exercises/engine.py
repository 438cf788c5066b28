"""Judges an answer: compares it with the reference and, if it differs, with every known mistake."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from pefteach.exercises.compare import difference, show
from pefteach.exercises.exercise import Draw, Exercise, Inputs, namespace_of
from pefteach.exercises.subject import Called, Subject, SubjectError
from pefteach.exercises.verdict import CANNOT_CHECK, NOT_ATTEMPTED, RIGHT, WRONG, Verdict, verdict
from pefteach.exercises.worker import Worker


@dataclass(frozen=True)
class Step:
    """One observation of an answer: a value, or the exception that ended the run."""

    what: str
    inputs: Inputs
    value: Any = None
    changed: tuple[str, ...] = ()
    error: SubjectError | None = None


def judge(exercise: Exercise, subject: Subject, seed: int) -> Verdict:
    """Judge a subject: is there an answer, are types and shapes right, are the values right? It never raises."""
    name = exercise.name
    try:
        kind = subject.kind(name)
        if kind == "missing":
            return verdict(NOT_ATTEMPTED, name, f"There is no {name} yet: run the cell that defines it.")
        if kind == "blank":
            return verdict(NOT_ATTEMPTED, name, f"{name} is still empty: write your code where the cell says so.")
        if kind not in ("function", "class"):
            return verdict(WRONG, name, f"{name} is {kind}, where a function or class should be.")
        expected = _trace_of(exercise, exercise.reference, seed)
        got = trace(exercise, subject, seed)
        if expected[-1].error:
            raise expected[-1].error
        return _compare(exercise, expected, got, seed)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return verdict(CANNOT_CHECK, name, f"The check itself failed. This is our fault, not yours.\n{text}")


def answer(source: str) -> Subject:
    """The subject that an answer's source code makes."""
    return Subject(Worker(namespace_of(source)).do)


def trace(exercise: Exercise, subject: Subject, seed: int) -> list[Step]:
    """All observations of a subject, up to the first exception in its code."""
    steps = []
    for inputs in exercise.inputs(Draw(seed)):
        try:
            for what, value in exercise.observe(subject, exercise.name, inputs):
                called = value if isinstance(value, Called) else Called(value, ())
                steps.append(Step(what, inputs, called.value, called.changed))
        except SubjectError as error:
            return [*steps, Step(error.what, inputs, error=error)]
    return steps


@functools.lru_cache(maxsize=256)
def _trace_of(exercise: Exercise, source: str, seed: int) -> list[Step]:
    """The trace of a known answer. It is kept, because every check of the student's code needs it again."""
    return trace(exercise, answer(source), seed)


def _compare(exercise: Exercise, expected: list[Step], got: list[Step], seed: int) -> Verdict:
    name, last = exercise.name, got[-1]
    if last.error and _is_stub(last.error):
        return verdict(NOT_ATTEMPTED, name, f"There is still code to write: {_where(last.error) or last.error.message}")
    place = next((i for i, (want, have) in enumerate(zip(expected, got)) if _differs(want, have)), None)
    if place is None:
        return verdict(RIGHT, name, exercise.remark)
    want, have = expected[place], got[place]
    known = _recognise(exercise, expected, got, place, seed)
    lines = [f"Checked   {have.what}"]
    if have.error:
        lines += [f"Raised    {have.error.kind}: {have.error.message}", _where(have.error)]
        message = "Your code raised an exception."
        if have.error.kind == "KeyboardInterrupt":
            message = "The check was interrupted while your code ran. Is there a loop that never ends?"
    elif how := difference(want.value, have.value):
        lines += [f"Expected  {show(want.value)}", f"Got       {show(have.value)}", f"That is   {how}"]
        message = "The result is not the expected one, and it is none of the mistakes known here."
        if have.value is None:
            message = "There is no result. Is a `return` missing?"
    else:
        message = f"The result is right, but {', '.join(have.changed)} was changed in place: leave the arguments alone."
    more = {"mistake": known[0], "arguments": have.inputs} if known else {"arguments": have.inputs}
    return verdict(WRONG, name, known[1] if known else message, *filter(None, lines), **more)


def _recognise(
    exercise: Exercise, expected: list[Step], got: list[Step], place: int, seed: int
) -> tuple[str, str] | None:
    """Name and message of the known mistake that the answer makes, or None.

    A mistake with the same observations to the end wins. Otherwise it must be the only one with the same
    observations up to ``place``, where the answer first differs from the reference.
    """
    alike = []
    for mistake in exercise.mistakes:
        steps = _trace_of(exercise, exercise.wrong_answer(mistake), seed)
        if len(steps) <= place or not _differs(expected[place], steps[place]):
            continue
        if any(_differs(a, b) for a, b in zip(steps[: place + 1], got)):
            continue
        if len(steps) == len(got) and not any(_differs(a, b) for a, b in zip(steps, got)):
            return mistake.name, mistake.message
        alike.append((mistake.name, mistake.message))
    return alike[0] if len(alike) == 1 else None


def _differs(a: Step, b: Step) -> bool:
    if a.error or b.error:
        return not (a.error and b.error and (a.error.kind, a.error.message) == (b.error.kind, b.error.message))
    return a.changed != b.changed or difference(a.value, b.value) is not None


def _is_stub(error: SubjectError) -> bool:
    """Whether it is the student's own NotImplementedError; torch raises some as well."""
    own = not error.message or "raise NotImplementedError" in error.text or 'required "forward"' in error.message
    return error.kind == "NotImplementedError" and own


def _where(error: SubjectError) -> str:
    return f"line {error.line}" + (f": {error.text}" if error.text else "") if error.line else ""
