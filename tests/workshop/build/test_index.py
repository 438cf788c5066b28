"""The index: every lesson with its time, what it needs and its exercises, and nothing of whoever built it."""

import nbformat
import pytest

from pefteach.lessons.catalogue import LESSONS, Lesson
from pefteach.workshop.build import index
from pefteach.workshop.build.index import make_index


def rows(notebook) -> dict[str, list[str]]:
    lines = [line for line in notebook.cells[0].source.replace("\N{NO-BREAK SPACE}", " ").splitlines() if "|" in line]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert {len(row) for row in cells} == {6}
    return {row[0]: row[1:] for row in cells}


def test_every_lesson_has_its_row():
    table = rows(make_index())
    assert list(table) == [str(lesson.number) for lesson in LESSONS]
    assert table["7"] == [
        "**[LoRA](07_lora.ipynb)**",
        "the low-rank idea, rank and alpha, merging, rsLoRA, several adapters on one base",
        "50 min",
        "[1](01_transformer_review.ipynb), [2](02_finetuning_and_its_cost.ipynb)",
        "[6 in 45 min](exercises/07_lora.ipynb)",
    ]


def test_it_stores_nothing_personal(tmp_path, monkeypatch):
    stored = tmp_path / "progress.json"
    stored.write_text('{"exercises": {"attention": {"tries": 1, "status": "right"}}}')
    monkeypatch.setenv("PEFTEACH_PROGRESS", str(stored))
    notebook = make_index()
    nbformat.validate(notebook)
    (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cell.outputs == [] and cell.execution_count is None and "progress()" in cell.source


@pytest.mark.parametrize(("last", "says"), [(2, False), (3, True)])
def test_missing_numbers_are_explained(last, says, monkeypatch):
    one = next(lesson for lesson in LESSONS if lesson.number == 1)
    other = Lesson(last, "lora", "LoRA", 50, "low rank")
    monkeypatch.setattr(index, "LESSONS", (one, other))
    assert ("lessons to come" in str(make_index())) is says
