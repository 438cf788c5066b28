"""Opening and saving a notebook of a learner's copy changes no byte of it, so that it counts as untouched."""

import pytest

from pefteach.commands.working_copy import lay_course
from pefteach.paths import COURSE

from .notebook import NOTEBOOK

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize("name", ["07_lora.ipynb", "exercises/07_lora.ipynb"])
def test_saving_changes_nothing(folder, open_notebook, name, outputs):
    copy = folder / f"saved-{outputs}"
    lay_course(COURSE, copy, outputs)
    before, laid = (copy / name).read_bytes(), (copy / name).stat().st_mtime_ns
    page = open_notebook(f"{copy.name}/{name}").page
    assert not page.evaluate(f"() => {NOTEBOOK}.context.model.dirty")
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    assert (copy / name).stat().st_mtime_ns > laid and (copy / name).read_bytes() == before
