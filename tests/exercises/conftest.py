"""What the exercise tests share."""

import pytest

from pefteach.lessons import progress
from pefteach.lessons.catalogue import LESSONS

EXERCISES = [exercise for lesson in LESSONS for exercise in lesson.exercises]


@pytest.fixture(autouse=True)
def progress_file(tmp_path, monkeypatch):
    """Never the progress of whoever runs the tests."""
    file = tmp_path / "progress.json"
    monkeypatch.setenv("PEFTEACH_PROGRESS", str(file))
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    monkeypatch.setattr(progress_module(), "_session", {})
    return file


def progress_module():
    import sys

    assert callable(progress)
    return sys.modules["pefteach.exercises.progress"]


def pytest_generate_tests(metafunc):
    if "exercise" in metafunc.fixturenames:
        metafunc.parametrize("exercise", EXERCISES, ids=[exercise.name for exercise in EXERCISES])
