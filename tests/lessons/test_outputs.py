"""Every lesson still prints what is stored, and the comparison that says so is able to fail."""

import nbformat
import pytest

from pefteach.workshop.build.lessons import build_lesson

from .compare import differences, near

SOURCE = """\
# %% [markdown]
# # A lesson of five cells
# %%
loss = 1 / 3
print(f"loss {loss:.6f} after {7} steps")
# %%
[0.125, 2]
# %% nbval={"rtol": 0.05}
loss
# %%
loss;
# %% tags=["raises-exception"]
int("seven")
"""


def test_every_lesson_prints_what_is_stored(lesson, request):
    found = differences(lesson, request.session)
    assert not found, "\n\n".join([lesson.name, *found])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    (folder / "01_five.py").write_text(SOURCE)
    build_lesson(folder / "01_five.py", folder / "01_five.ipynb")
    return folder / "01_five.ipynb"


@pytest.fixture
def edited(built, tmp_path):
    """Write a copy of the notebook after ``edit`` has changed its code cells."""

    def go(edit):
        notebook = nbformat.read(built, 4)
        edit([cell for cell in notebook.cells if cell.cell_type == "code"])
        nbformat.write(notebook, tmp_path / built.name)
        return tmp_path / built.name

    return go


def replace(cell, old, new):
    """Change what a cell is said to have printed."""
    output = cell.outputs[0]
    holder, key = (output, "text") if "text" in output else (output.get("data", output), "text/plain")
    holder, key = (output, "evalue") if "evalue" in output else (holder, key)
    assert old in holder[key]
    holder[key] = holder[key].replace(old, new)


def test_a_fresh_build_has_no_differences(built, request):
    # Its fourth cell ends in ";": nbval alone would run it without history, and print it.
    assert differences(built, request.session) == []


def test_changed_outputs_are_caught(edited, request):
    def edit(cells):
        replace(cells[0], "0.333333", "0.336667")  # a number moved by 1 %
        replace(cells[1], "2]", "2, 3]")  # one number more
        replace(cells[2], "0.3333333333333333", "0.36")  # 8 %, where this cell allows 5 %
        replace(cells[4], "seven", "eight")  # the message of an expected error

    found = differences(edited(edit), request.session)
    assert [message.split("\n")[0] for message in found] == [
        f"code cell {n}: Cell outputs differ" for n in (1, 2, 3, 5)
    ]


def test_numbers_may_move_as_far_as_their_cell_allows_and_expected_errors_must_be_raised(edited, request):
    def edit(cells):
        replace(cells[0], "0.333333", "0.333500")  # 0.05 %, of 0.1 %
        replace(cells[2], "0.3333333333333333", "0.345")  # 3.5 %, of this cell's 5 %
        cells[4].source = "int('7');"

    (message,) = differences(edited(edit), request.session)
    assert message.startswith("code cell 5")


def test_a_cell_that_raises_ends_the_run(edited, request):
    def edit(cells):
        cells[1].source = "undefined"

    (message,) = differences(edited(edit), request.session)
    assert message.startswith("code cell 2: Cell execution caused an exception") and "NameError" in message


def test_a_stripped_notebook_is_refused(edited, request):
    def edit(cells):
        for cell in cells:
            cell.update(execution_count=None, outputs=[])

    with pytest.raises(ValueError, match="code cell 1 was never run"):
        differences(edited(edit), request.session)


@pytest.mark.parametrize(
    ("stored", "fresh", "is_near"),
    [
        ("a 1.000 b", "a 1.0009 b", True),
        ("a 1.000 b", "a 1.0011 b", False),
        ("1e-8", "3e-8", True),  # both are zero at the scale of 1e-6
        ("10", "10.0", False),  # an integer became a float
        ("1000", "1001", False),
        ("loss 0.5", "cost 0.5", False),
        ("0.5 0.5", "0.5", False),
        ("lora_A1 x2.0", "lora_A2 x2.0", False),  # digits inside a name are the name
        ("lr  0.5", "lr 0.5", True),
        ("True", "False", False),
        ("nan", "0.5", False),
    ],
)
def test_near(stored, fresh, is_near):
    assert near(stored, fresh) is is_near
