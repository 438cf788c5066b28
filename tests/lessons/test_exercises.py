"""Every exercise: the stub is not attempted, right answers are right, and each mistake gets its own message."""

import math

import pytest

from pefteach.exercises.compare import distance
from pefteach.exercises.engine import answer, judge, trace
from pefteach.exercises.exercise import Mistake
from pefteach.lessons.catalogue import LESSONS
from pefteach.lessons.lora.exercises.lora_forward import EXERCISE as LORA_FORWARD
from pefteach.workshop import checks as report
from pefteach.workshop.build.masters import HIDDEN_SEEDS

OTHER_SEEDS = (1, 2)


def test_every_exercise_has_a_name_of_its_own():
    names = [exercise.name for lesson in LESSONS for exercise in lesson.exercises]
    assert len(set(names)) == len(names)


def test_there_is_enough_of_everything(exercise):
    assert len(exercise.mistakes) >= 5
    assert len(exercise.accepted) >= 3
    assert len(exercise.hints) >= 2
    for field in ("name", "message"):
        values = [getattr(mistake, field) for mistake in exercise.mistakes]
        assert len(set(values)) == len(values)
    assert len({exercise.reference, *exercise.accepted}) == 1 + len(exercise.accepted)


def test_every_answer_gets_its_verdict(exercise, monkeypatch):
    monkeypatch.setattr(report, "SEEDS", report.SEEDS + OTHER_SEEDS)
    rows = list(report.check_rows(exercise))
    assert [row for row in rows if not row["holds"]] == []
    assert len(rows) == 2 + len(exercise.accepted) + len(exercise.mistakes)


def test_the_message_is_the_mistakes_own(exercise):
    for mistake in exercise.mistakes:
        verdict = judge(exercise, answer(exercise.wrong_answer(mistake)), 0)
        assert verdict.message == mistake.message
        assert "Checked " in str(verdict) and verdict.arguments


def test_the_hidden_tests_use_the_seeds_that_were_tried():
    assert set(HIDDEN_SEEDS) <= set(report.SEEDS)


def test_other_seeds_bring_other_inputs(exercise):
    seen = {tuple(step.what for step in trace(exercise, answer(exercise.reference), seed)) for seed in range(6)}
    values = {str([step.value for step in trace(exercise, answer(exercise.reference), seed)]) for seed in range(6)}
    assert len(values) > 1, "a hard-coded answer would pass"
    assert len(seen) > 1 or exercise.name == "next_token_loss"


def test_right_answers_are_far_inside_the_tolerance_and_mistakes_far_outside(exercise):
    """So the verdict hangs neither on rounding nor on one machine's arithmetic."""
    expected = trace(exercise, answer(exercise.reference), 0)
    apart = lambda source: _largest(expected, trace(exercise, answer(source), 0))
    assert max(map(apart, exercise.accepted)) < 0.2
    assert min(apart(exercise.wrong_answer(mistake)) for mistake in exercise.mistakes) > 20


def _largest(expected, got):
    if len(expected) != len(got) or any(a.changed != b.changed or b.error for a, b in zip(expected, got)):
        return math.inf
    return max(distance(a.value, b.value) for a, b in zip(expected, got))


def test_the_solution_is_not_in_the_stub(exercise):
    assert "NotImplementedError" in exercise.stub
    solution = [line.strip() for line in exercise.reference.splitlines() if line not in exercise.stub.splitlines()]
    assert solution and not any(line in exercise.stub for line in solution)


def test_a_mistake_must_fit_the_reference():
    mistake = Mistake("typo", {"no such text": ""}, "…")
    with pytest.raises(ValueError, match="no such text"):
        LORA_FORWARD.wrong_answer(mistake)
