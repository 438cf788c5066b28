"""What every lesson keeps to, so that they read alike: its parts, its length, short cells, words for every picture."""

import re

import nbformat
import pytest

HEADINGS = ("Check against the reference", "Claim", "Recap", "Now you", "Sources")
WORDS = range(800, 1501)
LINES = 20  # of code in the longest cell, blank lines and imports aside; most cells have about ten
DISCOURAGING = re.compile(r"\b(simply|obviously|of course|trivial|trivially|clearly)\b", re.IGNORECASE)
STATEFUL = re.compile(r"\bpyplot\b|\bplt\.|\bwidgets\.Output\b|\binteract(ive|ive_output|_manual)?\(|\bdisplay\(")


def text(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def code(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook) -> list[dict]:
    return [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]


def prose(markdown: str) -> str:
    """The words that are read: no code, no formulas, no addresses of links."""
    markdown = re.sub(r"```.*?```|\$\$.*?\$\$", " ", markdown, flags=re.DOTALL)
    return re.sub(r"`[^`]*`|\$[^$\n]*\$|\]\([^)]*\)", " x ", markdown)


def missing_parts(notebook) -> list[str]:
    """The anatomy of a lesson, as far as a program can see it."""
    first = notebook.cells[0].source
    found = [] if first.startswith("# ") and "?" in first else ["the first cell is not a title and a question"]
    if not any(output["data"].get("text/plain", "").startswith("Explorer: ") for output in outputs(notebook)):
        found.append("no explorer")
    texts = [(i, cell.source) for i, cell in enumerate(notebook.cells) if cell.cell_type == "markdown"]
    headings = [(i, heading) for i, source in texts for heading in re.findall("^#+ (.*)$", source, re.MULTILINE)]
    cell_of: dict[str, int] = {}
    for part in HEADINGS:
        after = max(cell_of.values(), default=0)
        cells = [cell for cell, heading in headings if cell >= after and heading.startswith(part)]
        if cells:
            cell_of[part] = cells[0]
        else:
            found.append(f"no heading starts with {part!r}, in its place among {', '.join(HEADINGS)}")
    claims = nbformat.v4.new_notebook(cells=notebook.cells[cell_of.get("Claim", len(notebook.cells)) :])
    if "Verdict" not in text(claims) or not any("assert " in source for source in code(claims)):
        found.append("no claim with an asserting cell and a verdict")
    return found


def faults(notebook, name: str) -> list[str]:
    found = missing_parts(notebook)
    words = len(re.findall(r"[^\W_][\w'’-]*", prose(text(notebook))))
    if words not in WORDS:
        found.append(f"{words} words; a lesson has {WORDS[0]} to {WORDS[-1]}")
    found += [f"says {word!r}" for word in DISCOURAGING.findall(prose(text(notebook)))]
    for number, source in enumerate(code(notebook), 1):
        lines = sum(bool(line.strip()) and not re.match("import |from ", line) for line in source.split("\n"))
        if lines > LINES:
            found.append(f"code cell {number} has {lines} lines, more than {LINES}")
        found += [f"code cell {number} uses {hit.group()!r}" for hit in STATEFUL.finditer(source)]
    if re.search(r"^(import|from) (transformers|peft)\b", code(notebook)[0], re.MULTILINE):
        found.append("the first cell imports a slow library before the reader has seen anything")
    for output in outputs(notebook):
        alt = output["metadata"].get("image/png", {}).get("alt", "")
        if "image/png" in output["data"] and len(alt.split()) < 4:
            found.append(f"a picture is described by {alt!r} only")
    found += [f"a picture without words: {link}" for link in re.findall(r"!\[\]\([^)]*\)", text(notebook))]
    if f"exercises/{name}.ipynb" not in text(notebook):
        found.append(f"does not point to exercises/{name}.ipynb")
    return found


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
