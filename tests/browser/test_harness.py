"""The browser test is able to fail: an explorer with every kind of control passes it, and broken ones do not."""

import nbformat
import pytest

from pefteach.workshop.build.stored import METADATA

from .notebook import faults

pytestmark = pytest.mark.browser

IMPORTS = """\
import ipywidgets as w
from pefteach.lessons.kit.panel import Panel

def line(figure, **values):
    axes = figure.subplots()
    axes.set_title(" ".join(str(value) for value in values.values()))
    axes.plot([0, 1])
    return "a line"
"""

EVERY_CONTROL = """\
Panel(line, question="Does it follow?", look_for="the title",
      rank=w.IntSlider(8, 1, 8, description="rank"), span=w.FloatRangeSlider(value=(1, 2), max=9, description="span"),
      power=w.SelectionSlider(options=[1, 10, 100], description="power"), text=w.Text("once", description="text"),
      kind=w.Dropdown(options=["thin", "fat"], description="kind"), seed=w.BoundedIntText(0, 0, 9, description="seed"),
      on=w.Checkbox(False, description="on"), side=w.ToggleButtons(options=["left", "right"], description="side"))
"""

DEAD = """\
Panel(lambda figure, rank, dead: line(figure, rank=rank), question="Which one is dead?",
      rank=w.IntSlider(1, 0, 8, description="rank"), dead=w.IntSlider(1, 0, 8, description="dead"))
"""

BLANK = """\
Panel(lambda figure, rank: figure.patch.set_facecolor(str(rank / 9)) or "nothing", question="Is there anything?",
      rank=w.IntSlider(1, 0, 8, description="rank"))
"""


def test_the_harness_sees_what_works_and_what_does_not(folder, open_notebook):
    cells = [nbformat.v4.new_code_cell(source) for source in (IMPORTS, EVERY_CONTROL, DEAD, BLANK, "1 / 0", "2 + 2")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=METADATA), folder / "harness.ipynb")
    page = open_notebook("harness.ipynb")
    assert page.run_all() == ["ZeroDivisionError: division by zero"]
    every, dead, blank = page.panels()
    assert faults(every) == []
    assert faults(dead) == ["'dead' does not change the picture"]
    assert faults(blank) == ["'rank': the picture is blank"]
    assert page.errors == []
    page.page.evaluate("() => console.error('from the page')")
    assert page.errors == ["from the page"]


def test_a_notebook_that_asks_for_a_kernel_is_not_waited_for(folder, open_notebook):
    nbformat.write(nbformat.v4.new_notebook(), folder / "no_kernel.ipynb")
    with pytest.raises(AssertionError, match=r"(?i)asks before it starts a kernel: 'select kernel"):
        open_notebook("no_kernel.ipynb")
