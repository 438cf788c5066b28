"""One test per stored lesson, and one per exercise, for the tests that ask for it."""

import nbformat
import pytest

from pefteach.lessons.catalogue import LESSONS as CATALOGUE
from pefteach.paths import COURSE
from pefteach.workshop.build.lessons import ENVIRONMENT

LESSONS = sorted(COURSE.glob("[0-9][0-9]_*.ipynb"))
EXERCISES = [exercise for lesson in CATALOGUE for exercise in lesson.exercises]


def pytest_generate_tests(metafunc):
    if "lesson" in metafunc.fixturenames:
        metafunc.parametrize("lesson", LESSONS, ids=[path.stem for path in LESSONS])
    if "exercise" in metafunc.fixturenames:
        metafunc.parametrize("exercise", EXERCISES, ids=[exercise.name for exercise in EXERCISES])


@pytest.fixture
def notebook(lesson):
    """The stored notebook of a lesson."""
    return nbformat.read(lesson, 4)


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path_factory):
    """Kernels run as the build runs them."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path_factory.getbasetemp() / "ipython"))
