"""``pefteach new-lesson``: what it makes builds, keeps to the form and is listed; what it can't make it refuses."""

import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest

from lessons.form import faults
from pefteach.paths import ROOT
from pefteach.workshop.new_lesson import make

CHECKS = """
import json
from pefteach.lessons.catalogue import LESSONS
from pefteach.workshop.checks import check_rows
(lesson,) = [lesson for lesson in LESSONS if lesson.number == 8]
lesson.explorer.example()
print(json.dumps([row for exercise in lesson.exercises for row in check_rows(exercise)]))
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the repository, as far as a lesson needs it, with a new lesson; and what the command said."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "pefteach", folder / "pefteach", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "course", folder / "course")
    (folder / "data").symlink_to(ROOT / "data")
    return folder, python(folder, "-m", "pefteach", "new-lesson", "8", "soft_prompts")


def python(folder, *arguments) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_says_what_it_made_and_what_is_next(clone):
    folder, said = clone
    assert str(folder / "pefteach" / "lessons" / "soft_prompts") in said
    assert "catalogue.py" in said and "pefteach build 08_soft_prompts" in said and "TODO" in said


def test_the_new_lesson_builds_and_keeps_to_the_form(clone):
    folder, _ = clone
    python(folder, "-m", "pefteach", "build", "08_soft_prompts")
    python(folder, "-m", "pefteach", "build", "--check", "08_soft_prompts")
    notebook = nbformat.read(folder / "course" / "08_soft_prompts.ipynb", 4)
    assert faults(notebook, "08_soft_prompts") == []
    text = "\n".join(cell.source for cell in notebook.cells)
    assert text.startswith("# 8. Soft prompts\n") and "TODO" in text
    assert "template" not in text.lower() and "[9. QLoRA]" in notebook.cells[-1].source


def test_its_exercise_passes_the_checks_of_every_exercise(clone):
    rows = json.loads(python(clone[0], "-c", CHECKS))
    assert len(rows) == 2 + 5 + 3 and [row for row in rows if not row["holds"]] == []
    assert {row["name"].split(":")[0] for row in rows} == {"soft_prompts_step"}


def test_the_catalogue_holds_it_in_its_place_and_the_code_is_tidy(clone):
    folder, _ = clone
    listed = "from pefteach.lessons.catalogue import LESSONS; print([(one.number, one.title) for one in LESSONS])"
    assert "(7, 'LoRA'), (8, 'Soft prompts'), (9, 'QLoRA')" in python(folder, "-c", listed)
    python(folder, "-m", "ruff", "check", "pefteach/lessons")
    python(folder, "-m", "ruff", "format", "--check", "pefteach/lessons")


def test_the_longest_name_breaks_no_line():
    name = "a" * make.LONGEST
    make.check_name(name)
    texts = [file.read_text(encoding="utf-8") for file in make.TEMPLATE.rglob("*.py")]
    lines = [line for text in texts for line in make.filled_in(text, 99, name, name).splitlines()]
    assert len(lines) > 200 and [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("number", [1, 3, 99])
def test_a_row_finds_its_place(number):
    source = "LESSONS = (\n    Lesson(2, 'b'),\n    Lesson(\n        5,\n        'e',\n    ),\n)\nOTHER = (1,)\n"
    lessons = []
    exec(make.with_row(source, number, f"    Lesson({number}, 'new'),\n"), {"Lesson": lambda *row: lessons.append(row)})
    assert lessons == sorted([(2, "b"), (5, "e"), (number, "new")])


@pytest.mark.parametrize(
    ("number", "name", "sentence"),
    [
        (7, "soft_prompts", "07_lora has the number 7 already"),
        (0, "soft_prompts", "from 1 to 99, not 0"),
        (100, "soft_prompts", "from 1 to 99, not 100"),
        (8, "lora", "has 'lora' already"),
        (8, "kit", "has 'kit' already"),
        (8, "catalogue", "has 'catalogue' already"),
        (8, "Soft prompts", "can't name a lesson"),
        (8, "soft-prompts", "can't name a lesson"),
        (8, "../soft", "can't name a lesson"),
        (8, "8bit", "can't name a lesson"),
        (8, "class", "can't name a lesson"),
        (8, "soft_prompts\n", "can't name a lesson"),
        (8, "a" * 31, "can't name a lesson"),
    ],
)
def test_what_it_cannot_make_it_refuses_in_one_sentence(number, name, sentence, monkeypatch):
    monkeypatch.setattr(make.shutil, "copytree", lambda *_, **__: pytest.fail("this was written"))
    with pytest.raises(ValueError, match=sentence) as caught:
        make.make_lesson(number, name)
    assert "\n" not in str(caught.value)


def test_without_the_repository_it_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr("pefteach.workshop.clone.ROOT", tmp_path)
    monkeypatch.setattr(make.shutil, "copytree", lambda *_, **__: pytest.fail("this was written"))
    with pytest.raises(ValueError, match="new-lesson needs a clone of the whole repository"):
        make.make_lesson(8, "soft_prompts")
