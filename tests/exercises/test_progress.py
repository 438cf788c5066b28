"""The progress file: small, whole, and never a reason for a check to fail."""

import json
import os
from pathlib import Path

import pytest

from pefteach.exercises.exercise import namespace_of
from pefteach.exercises.progress import Progress
from pefteach.lessons import check, hint, progress, solution
from pefteach.lessons.lora.exercises.lora_scale import EXERCISE

NAME = EXERCISE.name
WRONG = EXERCISE.wrong_answer(EXERCISE.mistakes[0])


def try_(source):
    return check(NAME, namespace=namespace_of(source))


def test_tries_are_counted_and_right_stays_right(progress_file):
    try_(EXERCISE.stub)
    assert not progress_file.exists(), "a stub is no attempt"
    for source in (WRONG, EXERCISE.reference, WRONG):
        try_(source)
    entry = json.loads(progress_file.read_text())["exercises"][NAME]
    assert entry == {"tries": 3, "status": "right", "hints": 0, "solution": False}
    assert f"✓ {NAME}: right (tries: 3)" in str(progress()) and "1 of" in progress().message


def test_hints_come_one_after_the_other_and_the_last_one_stays():
    said = [hint(NAME).message.splitlines()[0] for _ in range(len(EXERCISE.hints) + 2)]
    assert said == [*EXERCISE.hints, EXERCISE.hints[-1], EXERCISE.hints[-1]]
    assert "solution" in hint(NAME).message


def test_the_solution_comes_after_an_attempt_only(progress_file):
    refused = solution(NAME)
    assert "Try it first" in str(refused) and "math.sqrt" not in str(refused)
    try_(EXERCISE.stub)
    assert "Try it first" in str(solution(NAME)), "a stub is no attempt"
    try_(WRONG)
    assert EXERCISE.reference.splitlines()[-1].strip() in str(solution(NAME))
    assert json.loads(progress_file.read_text())["exercises"][NAME]["solution"] is True


BROKEN = ["", "{", "[]", "null", "\x00", *(f'{{"exercises": {odd}}}' for odd in ("3", '{"a": 3}', '{"a": null}'))]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_set_aside(progress_file, text):
    progress_file.write_text(text)
    assert try_(WRONG).status == "wrong"
    assert json.loads(progress_file.read_text())["exercises"][NAME]["tries"] == 1
    assert progress_file.with_name("progress.json.broken").read_text() == text


def test_bytes_that_are_no_text_are_set_aside(progress_file):
    progress_file.write_bytes(b"\xff\xfe{}")
    assert try_(WRONG).status == "wrong" and progress_file.with_name("progress.json.broken").exists()


def test_odd_entries_count_for_nothing(progress_file):
    entry = {"tries": "many", "status": [7], "hints": None, "surprise": 1}
    progress_file.write_text(json.dumps({"exercises": {NAME: entry}}))
    assert "Try it first" in str(solution(NAME))
    assert "✗" not in str(progress())
    assert try_(WRONG).status == "wrong" and "✗" in str(progress())


def test_a_file_that_cannot_be_written_costs_nothing(tmp_path, monkeypatch):
    blocked = tmp_path / "a file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("PEFTEACH_PROGRESS", str(blocked / "progress.json"))
    assert try_(WRONG).status == "wrong"
    assert "One right answer" in str(solution(NAME)), "this session still remembers"


def test_it_is_written_whole_or_not_at_all(progress_file, monkeypatch):
    try_(WRONG)
    before = progress_file.read_text()

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    assert try_(WRONG).status == "wrong"
    assert progress_file.read_text() == before


def test_grading_does_not_write_a_students_tries_on_the_graders_computer(progress_file, monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    assert try_(WRONG).status == "wrong" and not progress_file.exists()


def test_a_user_without_a_home_is_no_reason_to_fail(monkeypatch):
    monkeypatch.delenv("PEFTEACH_PROGRESS")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(Path, "write_text", lambda *args, **more: 0)
    assert "~" not in str(Progress().file) and try_(WRONG).status == "wrong"
