"""Building lessons: the same bytes each time, nothing of this computer in them, the old notebook kept on failure."""

import sys
from types import SimpleNamespace

import nbformat
import pytest

from pefteach.workshop.build import lessons as build
from pefteach.workshop.build.stored import as_text

SOURCE = """\
# %% [markdown]
# # A lesson
# %%
import ipywidgets

class Drawing:
    def _repr_mimebundle_(self, **_):
        return {"image/png": "AAAA", "text/plain": "a drawing"}, {"image/png": {"alt": "a dot", "width": 3}}

print("one")
Drawing()
# %% tags=["raises-exception"] nbval={"rtol": 0.05}
1 / 0
# %%
ipywidgets.IntSlider(3)
"""
END = "[On](02_two.ipynb)"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course of one lesson, built."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "lesson.py").write_text(SOURCE)
    timing = build.build_lesson(folder / "lesson.py", folder / "01_one.ipynb", END)
    assert 1 <= timing.slowest_cell <= 3 and 0 < timing.slowest_seconds < timing.seconds
    return folder


@pytest.fixture
def copy(course, tmp_path):
    """The built course, to be spoilt: its source and its notebook."""
    source, notebook = tmp_path / "lesson.py", tmp_path / "01_one.ipynb"
    source.write_text(SOURCE)
    notebook.write_bytes((course / "01_one.ipynb").read_bytes())
    return SimpleNamespace(source=source, notebook=notebook)


def cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def test_a_second_build_writes_the_same_bytes(course, copy):
    build.build_lesson(copy.source, copy.notebook, END)
    assert copy.notebook.read_bytes() == (course / "01_one.ipynb").read_bytes()
    build.check_lesson(copy.source, copy.notebook, END)


def test_what_is_stored(course):
    notebook = nbformat.read(course / "01_one.ipynb", 4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info", "title"}
    assert notebook.metadata.title == "A lesson"
    assert [cell.id for cell in notebook.cells] == ["01_one-0", "01_one-1", "01_one-2", "01_one-3", "01_one-4"]
    assert notebook.cells[-1].cell_type == "markdown" and notebook.cells[-1].source == END
    first, second, third = cells(course / "01_one.ipynb")
    assert [first.execution_count, second.execution_count, third.execution_count] == [1, 2, 3]
    assert first.metadata == {} and second.metadata == {"tags": ["raises-exception"], "nbval": {"rtol": 0.05}}
    stream, drawing = first.outputs
    assert stream.text == "one\n"
    assert drawing.data["image/png"].strip() == "AAAA" and drawing.metadata == {"image/png": {"alt": "a dot"}}
    assert second.outputs[0].traceback == ["ZeroDivisionError: division by zero"]
    assert set(third.outputs[0].data) == {"text/plain"}


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("x = 1\n# %%\nx = undefined\n", r"01_one: cell 2 \(x = undefined\) raised NameError: name 'undefined'"),
        ("import os\n# %%\nos._exit(1)\n", r"01_one: cell 2 \(os._exit\(1\)\) killed its kernel"),
    ],
)
def test_a_lesson_that_fails_keeps_the_old_notebook(copy, code, sentence):
    before = copy.notebook.read_bytes()
    copy.source.write_text("# %%\n" + code)
    with pytest.raises(ValueError, match=sentence):
        build.build_lesson(copy.source, copy.notebook, END)
    assert copy.notebook.read_bytes() == before


def test_a_lesson_runs_beside_its_notebook_without_bars_or_network(copy):
    copy.source.write_text(
        "# %%\nimport os\nfrom pathlib import Path\n"
        "print(Path('01_one.ipynb').exists(), os.environ['TQDM_DISABLE'], os.environ['HF_HUB_OFFLINE'])\n"
    )
    build.build_lesson(copy.source, copy.notebook, END)
    assert cells(copy.notebook)[0].outputs[0].text == "True 1 1\n"


def test_a_large_notebook_is_refused(copy, monkeypatch):
    before = copy.notebook.read_bytes()
    monkeypatch.setattr(build, "run", lambda *_: [0.1])
    monkeypatch.setattr(build, "LARGEST", 1000)
    with pytest.raises(ValueError, match=r"01_one: the notebook would be \d+ kB, more than 1 kB"):
        build.build_lesson(copy.source, copy.notebook, END)
    assert copy.notebook.read_bytes() == before


@pytest.mark.parametrize("text", [sys.prefix, str(build.ROOT / "data"), "/home/you/x.py", "<f at 0x7f3a21c0ffee>"])
@pytest.mark.parametrize("kind", ["stream", "display_data"])
def test_what_differs_elsewhere_is_refused(text, kind):
    values = {"text": f"see {text}\n"} if kind == "stream" else {"data": {"text/plain": f"see {text}"}}
    cell = nbformat.v4.new_code_cell("look()", outputs=[nbformat.v4.new_output(kind, **values)])
    (sentence,) = build.unfit(nbformat.v4.new_notebook(cells=[cell]))
    assert sentence.startswith("cell 1 (look()) prints ")


def test_what_is_the_same_everywhere_may_stay():
    text = "0x7f, a/b, course/01.ipynb, W at 0.5, https://example.org/home"
    picture = {"image/png": "/home/AAAA", "text/plain": text}
    cell = nbformat.v4.new_code_cell("look()", outputs=[nbformat.v4.new_output("display_data", data=picture)])
    assert build.unfit(nbformat.v4.new_notebook(cells=[cell])) == []


def spoil(path, change):
    notebook = nbformat.read(path, 4)
    change(notebook)
    path.write_text(as_text(notebook))


def swap_counts(notebook):
    notebook.cells[1].execution_count, notebook.cells[2].execution_count = 2, 1


STALE = {
    "deleted": (lambda c: c.notebook.unlink(), "does not exist"),
    "source edited": (lambda c: c.source.write_text(SOURCE.replace("one", "two")), "differs from its source"),
    "tag edited": (lambda c: c.source.write_text(SOURCE.replace("0.05", "0.06")), "differs from its source"),
    "end edited": (lambda c: spoil(c.notebook, lambda n: n.cells[-1].update(source="")), "differs from its source"),
    "end deleted": (lambda c: spoil(c.notebook, lambda n: n.cells.pop()), "differs from its source"),
    "cell added": (lambda c: c.source.write_text(SOURCE + "# %%\n2\n"), "differs from its source"),
    "run out of order": (lambda c: spoil(c.notebook, swap_counts), "not run from top to bottom"),
    "stripped": (lambda c: spoil(c.notebook, lambda n: n.cells[1].update(execution_count=None)), "not run from top"),
    "widget state": (lambda c: spoil(c.notebook, lambda n: n.metadata.update(widgets={})), "not as a build writes it"),
    "other id": (lambda c: spoil(c.notebook, lambda n: n.cells[1].update(id="a")), "not as a build writes it"),
    "a path": (lambda c: spoil(c.notebook, lambda n: n.cells[1].outputs[0].update(text="/home/me")), "not as a build"),
}


@pytest.mark.parametrize("name", STALE)
def test_a_stale_notebook_is_seen(copy, name):
    build.check_lesson(copy.source, copy.notebook, END)
    change, sentence = STALE[name]
    change(copy)
    with pytest.raises(ValueError, match=sentence):
        build.check_lesson(copy.source, copy.notebook, END)
