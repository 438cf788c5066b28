"""The list of lessons agrees with the folders, and with itself."""

from importlib import import_module
from pathlib import Path

import pytest

from pefteach.lessons import catalogue
from pefteach.lessons.catalogue import LESSONS, find, lessons_named
from pefteach.paths import ROOT

FOLDERS = {file.parent.name for file in Path(catalogue.__file__).parent.glob("*/lesson.py")}


def test_every_lesson_folder_is_listed_once_and_in_order():
    assert {lesson.folder for lesson in LESSONS} == FOLDERS and len(LESSONS) == len(FOLDERS)
    numbers = [lesson.number for lesson in LESSONS]
    assert numbers == sorted(set(numbers)) and all(1 <= number <= 99 for number in numbers)


@pytest.mark.parametrize("listed", LESSONS, ids=[lesson.name for lesson in LESSONS])
def test_a_lesson_says_what_the_index_needs_and_its_folder_imports(listed):
    assert listed.title and listed.holds and listed.minutes > 0 and listed.source.exists()
    assert all(number in [other.number for other in LESSONS if other.number < listed.number] for number in listed.needs)
    for part in ("", ".explorer", ".figures", ".exercises"):
        import_module(f"pefteach.lessons.{listed.folder}{part}")
    assert callable(listed.explorer.example) and listed.exercises


def test_the_readme_lists_what_the_catalogue_lists():
    rows = [f"| [{one.number:02} {one.title}](course/{one.name}.ipynb) | {one.holds} |" for one in LESSONS]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [line for line in readme.splitlines() if "](course/0" in line] == rows


def test_names_choose_lessons_and_unknown_ones_are_answered_with_those_there_are():
    assert lessons_named([]) == list(LESSONS)
    assert [lesson.number for lesson in lessons_named(["07_lora", "01_transformer_review"])] == [1, 7]
    with pytest.raises(ValueError, match="no lesson is called 'lora'; there are: 01_transformer_review"):
        lessons_named(["lora"])


def test_an_unknown_exercise_is_answered_with_the_nearest_names():
    assert find("lora_scale").name == "lora_scale"
    with pytest.raises(ValueError, match="did you mean lora_scale"):
        find("lora_scales")
