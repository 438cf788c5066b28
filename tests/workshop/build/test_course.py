"""``pefteach build``: every lesson, the index and the exercises; what is stale or belongs to nothing is reported."""

from types import SimpleNamespace

import nbformat
import pytest

from pefteach.lessons import catalogue
from pefteach.lessons.catalogue import Lesson
from pefteach.workshop.build import course as build
from pefteach.workshop.build.lessons import Timing

ONE, TWO = Lesson(1, "one", "One", 1, "one"), Lesson(2, "two", "Two", 2, "two")


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of two lessons; their names in ``failing`` fail to build and to pass the check."""
    failing, built = set(), []

    def lesson(source, out, end):
        built.append(out)
        if out.stem in failing:
            raise ValueError(f"{out.stem}: cell 1 raised")
        return Timing(12.34, 3, 5.6)

    monkeypatch.setattr(build, "COURSE", tmp_path)
    for module in (build, catalogue):
        monkeypatch.setattr(module, "LESSONS", (ONE, TWO))
    monkeypatch.setattr(build, "end_of_lesson", lambda lesson: "the end")
    monkeypatch.setattr(build, "build_lesson", lesson)
    monkeypatch.setattr(build, "check_lesson", lesson)
    monkeypatch.setattr(build, "unrun", lambda: {"exercises/01_one.ipynb": nbformat.v4.new_notebook(cells=[])})
    return SimpleNamespace(folder=tmp_path, failing=failing, built=built)


def test_the_check_looks_at_lessons_and_exercises(course, capsys):
    assert build.build_course([], check=False) == 0
    assert build.build_course([], check=True) == 0
    (course.folder / "exercises" / "01_one.ipynb").write_text("{}")
    assert build.build_course([], check=True) == 1
    assert "exercises/01_one.ipynb is stale" in capsys.readouterr().err
    assert build.build_course(["01_one"], check=True) == 0  # a named lesson only


def test_the_check_writes_nothing(course):
    assert build.build_course([], check=True) == 1
    assert list(course.folder.rglob("*")) == []


def test_the_check_reports_every_stale_lesson_and_every_orphan(course, capsys):
    assert build.build_course([], check=False) == 0
    for name in ("03_three.ipynb", "exercises/03_three.ipynb", "exercises/source/01_one.ipynb", "notes.ipynb"):
        (course.folder / name).parent.mkdir(exist_ok=True)
        (course.folder / name).write_text("{}")
    (course.folder / ".ipynb_checkpoints").mkdir()
    (course.folder / ".ipynb_checkpoints" / "01_one-checkpoint.ipynb").write_text("{}")
    course.failing.update({"01_one", "02_two"})
    assert build.build_course([], check=True) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "01_one: cell 1 raised",
        "02_two: cell 1 raised",
        "03_three.ipynb belongs to no lesson of the catalogue: delete it",
        "exercises/03_three.ipynb belongs to no lesson of the catalogue: delete it",
        "exercises/source/01_one.ipynb belongs to no lesson of the catalogue: delete it",
        "notes.ipynb belongs to no lesson of the catalogue: delete it",
    ]


def test_a_lesson_that_fails_does_not_stop_the_others(course, capsys):
    course.failing.add("01_one")
    assert build.build_course([], check=False) == 1
    said = capsys.readouterr()
    assert said.out == "02_two: 12.3 s, slowest is cell 3 with 5.6 s\n" and said.err == "01_one: cell 1 raised\n"


def test_an_unknown_name_lists_the_lessons(course):
    with pytest.raises(ValueError, match="no lesson is called '7_lora'; there are: 01_one"):
        build.build_course(["7_lora"], check=False)


def test_named_lessons_are_built_in_the_courses_order_and_once(course):
    assert build.build_course(["02_two", "01_one", "02_two"], check=False) == 0
    assert [out.stem for out in course.built] == ["01_one", "02_two"]
    assert not (course.folder / "exercises").exists()


def test_without_the_repository_the_command_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr("pefteach.workshop.clone.ROOT", tmp_path)
    with pytest.raises(ValueError, match="needs a clone of the whole repository"):
        build.build_course([], check=True)
