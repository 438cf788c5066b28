"""``pefteach checks``: judges every answer that the exercises know, and compares the verdict with what it must be."""

from __future__ import annotations

import json as json_
import platform
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from pefteach.exercises.engine import answer, judge
from pefteach.exercises.exercise import Exercise
from pefteach.exercises.verdict import NOT_ATTEMPTED, RIGHT, WRONG, Verdict
from pefteach.lessons.catalogue import LESSONS
from pefteach.workshop.build.masters import HIDDEN_SEEDS

SEEDS = (0, *HIDDEN_SEEDS)
"""The seed of the check that students see, and those of the hidden tests."""


def print_checks(json: bool = False) -> int:
    """Judge all stubs, right answers and mistakes, and print how many got the verdict they must get.

    Returns:
        0 if every answer got its verdict, else 1.
    """
    rows = {exercise.name: list(check_rows(exercise)) for lesson in LESSONS for exercise in lesson.exercises}
    every = [row for of_one in rows.values() for row in of_one]
    failed = [row for row in every if not row["holds"]]
    if json:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        print(json_.dumps({"machine": platform.platform(), "versions": versions, "rows": every}, indent=2))
        return 1 if failed else 0
    table = Table("exercise", "lesson", "stub", "right answers", "mistakes named", title="Exercise checks")
    for lesson in LESSONS:
        for exercise in lesson.exercises:
            kinds = ([r["holds"] for r in rows[exercise.name] if r["kind"] == kind] for kind in ("stub", RIGHT, WRONG))
            cells = [f"{'✓' if all(held) else '✗'} {sum(held)}/{len(held)}" for held in kinds]
            table.add_row(exercise.name, lesson.name, *cells)
    console = Console()
    console.print(table)
    for row in failed:
        console.print(f"✗ {row['name']}: {row['ours']}, where {row['bar']} is wanted", markup=False)
    console.print(f"{len(every) - len(failed)} of {len(every)} answers got the verdict they must get.")
    return 1 if failed else 0


def check_rows(exercise: Exercise) -> Iterator[dict[str, Any]]:
    """One row per answer: ``bar`` is the verdict it must get, ``ours`` what it got, for every seed."""
    yield _row(exercise, "stub", "stub", exercise.stub, NOT_ATTEMPTED)
    yield _row(exercise, RIGHT, "reference", exercise.reference, RIGHT)
    for number, source in enumerate(exercise.accepted, 1):
        yield _row(exercise, RIGHT, f"right answer {number}", source, RIGHT)
    for mistake in exercise.mistakes:
        source = exercise.wrong_answer(mistake)
        yield _row(exercise, WRONG, mistake.name, source, f"wrong: {mistake.name}")


def _row(exercise: Exercise, kind: str, label: str, source: str, bar: str) -> dict[str, Any]:
    got = [_outcome(judge(exercise, answer(source), seed)) for seed in SEEDS]
    ours = got[0] if len(set(got)) == 1 else " / ".join(got)
    name = f"{exercise.name}: {label}"
    return {"name": name, "kind": kind, "ours": ours, "peer": None, "ratio": None, "bar": bar, "holds": ours == bar}


def _outcome(verdict: Verdict) -> str:
    return f"{verdict.status}: {verdict.mistake or 'not recognised'}" if verdict.status == WRONG else verdict.status
