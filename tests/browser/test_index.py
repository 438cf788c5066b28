"""The first page: it runs, and its links lead from notebook to notebook and back."""

import pytest

pytestmark = pytest.mark.browser

OPEN = "window.jupyterapp.shell.currentWidget?.context?.path"


def follow(page, link: str) -> str:
    """Click a link in the notebook that is open; the path of the notebook that it opens."""
    before = page.evaluate(f"() => {OPEN}")
    page.locator(f".jp-NotebookPanel:visible a:text-is('{link}')").last.click()
    page.wait_for_function(f"before => {OPEN} && {OPEN} !== before", arg=before)
    return page.evaluate(f"() => {OPEN}")


def test_the_index_runs_and_its_links_lead_through_the_course(open_notebook, artefacts):
    opened = open_notebook("index.ipynb")
    opened.photograph(artefacts / "index.png")
    assert opened.run_all() == []
    opened.photograph(artefacts / "index_run.png")
    opened.theme("Dark")
    opened.photograph(artefacts / "index_dark.png")
    opened.theme("Light")
    page = opened.page
    assert follow(page, "LoRA") == "07_lora.ipynb"
    assert follow(page, "Exercises: LoRA") == "exercises/07_lora.ipynb"
    page.screenshot(path=artefacts / "exercises.png")
    assert follow(page, "9. QLoRA") == "09_qlora.ipynb"
    assert follow(page, "All lessons") == "index.ipynb"
    assert opened.errors == []
