"""Every lesson keeps to the form, and a lesson that did not would be seen."""

import nbformat
import pytest

from .form import faults


def test_a_lesson_keeps_to_the_form(notebook, lesson):
    assert faults(notebook, lesson.stem) == []


def good():
    """The smallest lesson that keeps to the form."""
    new = nbformat.v4
    picture = new.new_output(
        "execute_result",
        data={"image/png": "", "text/plain": "Explorer: a line"},
        metadata={"image/png": {"alt": "a line that rises"}},
    )
    parts = ["## Check against the reference", "## Claims put to the test", "**Verdict: right.**\n## Recap"]
    cells = [
        new.new_markdown_cell("# 1. Lines\nWhy? " + "word " * 800),
        new.new_code_cell("import torch", outputs=[picture]),
        new.new_markdown_cell("\n".join(parts[:2])),
        new.new_code_cell("assert 1 < 2"),
        new.new_markdown_cell(parts[2] + "\n## Now you\n`exercises/01_x.ipynb`\n## Sources\nA paper"),
    ]
    return new.new_notebook(cells=cells)


def test_the_smallest_good_lesson_has_no_faults():
    assert faults(good(), "01_x") == []


@pytest.mark.parametrize(
    ("cell", "old", "new", "complaint"),
    [
        (0, "Why?", "Why.", "not a title and a question"),
        (0, "word " * 100, "", "words; a lesson has"),
        (0, "word " * 10, "word " * 900, "words; a lesson has"),
        (0, "word word", "it is obviously", "'obviously'"),
        (0, "Why?", "Why? ![](a.png)", "a picture without words"),
        (1, "import torch", "from transformers import x", "slow library"),
        (1, "import torch", "x = 1\n" * 21, "21 lines"),
        (1, "import torch", "plt.show()", "uses 'plt.'"),
        (2, "## Claims", "## Things", "no heading starts with 'Claim'"),
        (3, "assert 1 < 2", "1 < 2", "no claim with an asserting cell"),
        (4, "Verdict", "Opinion", "and a verdict"),
        (4, "## Sources", "Sources", "no heading starts with 'Sources'"),
        (4, "## Recap", "## Summary", "no heading starts with 'Recap'"),
        (2, "## Check against", "## Compare with", "no heading starts with 'Check"),
        (4, "01_x.ipynb", "02_y.ipynb", "does not point to"),
    ],
)
def test_a_fault_of_form_is_seen(cell, old, new, complaint):
    notebook = good()
    assert old in notebook.cells[cell].source
    notebook.cells[cell].source = notebook.cells[cell].source.replace(old, new, 1)
    assert any(complaint in fault for fault in faults(notebook, "01_x"))


def test_parts_out_of_order_are_seen():
    notebook = good()
    notebook.cells.insert(2, notebook.cells.pop())
    assert any("no heading starts with 'Recap', in its place" in fault for fault in faults(notebook, "01_x"))


def test_a_picture_without_a_description_is_seen():
    notebook = good()
    notebook.cells[1].outputs[0].metadata = {}
    assert faults(notebook, "01_x") == ["a picture is described by '' only"]


def test_a_lesson_without_an_explorer_is_seen():
    notebook = good()
    notebook.cells[1].outputs[0].data["text/plain"] = "Picture: a line"
    assert faults(notebook, "01_x") == ["no explorer"]
