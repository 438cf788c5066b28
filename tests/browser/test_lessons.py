"""Every lesson runs in JupyterLab, every explorer follows the keyboard, and an exported page shows what they show."""

import nbformat
import pytest
from nbconvert import HTMLExporter

from .notebook import READ, faults, picture_faults

pytestmark = pytest.mark.browser


def stored_explorers(lesson) -> int:
    outputs = [output for cell in nbformat.read(lesson, 4).cells for output in cell.get("outputs", [])]
    return sum(output.get("data", {}).get("text/plain", "").startswith("Explorer: ") for output in outputs)


def test_lesson_in_jupyterlab(open_notebook, lesson, artefacts):
    page = open_notebook(lesson.name)
    page.theme("Light")
    stored = page.stored_pictures()
    assert len(stored) >= stored_explorers(lesson) and not any(map(picture_faults, stored))

    page.clear()
    assert page.run_all() == []
    page.photograph(artefacts / f"{lesson.stem}.png")

    panels = page.panels()
    assert len(panels) == stored_explorers(lesson)
    assert [fault for panel in panels for fault in faults(panel)] == []
    page.theme("Dark")
    page.photograph(artefacts / f"{lesson.stem}_dark.png")
    for number, panel in enumerate(panels, 1):
        panel.screenshot(path=artefacts / f"{lesson.stem}_explorer_{number}_dark.png")
    assert page.errors == []


def test_lesson_as_an_exported_page(chromium, lesson, tmp_path):
    html, _ = HTMLExporter().from_filename(str(lesson))
    (tmp_path / "lesson.html").write_text(html, encoding="utf-8")
    page = chromium.new_page()
    page.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
    page.goto((tmp_path / "lesson.html").as_uri(), wait_until="domcontentloaded")
    pictures = [image.evaluate(READ) for image in page.locator(".jp-RenderedImage img").all()]
    page.close()
    assert len(pictures) >= stored_explorers(lesson)
    assert [picture["alt"] for picture in pictures if not picture["alt"] or picture["ink"] < 500] == []
