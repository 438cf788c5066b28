"""Panel without a browser: setting a control's value is what JupyterLab does when a slider moves."""

import base64
import io
import threading

import ipywidgets as widgets
import pytest
import torch
from PIL import Image

from pefteach.lessons.kit.panel import Panel
from pefteach.lessons.kit.style import Picture, new_figure

KEY = "application/vnd.jupyter.widget-view+json"


def line(figure, rank: int, kind: str) -> str:
    axes = figure.subplots()
    axes.plot([0, rank])
    axes.set_title(kind)
    return f"A {kind} line up to {rank} & no <further>."


@pytest.fixture
def panel():
    return Panel(
        line,
        question="How <steep>?",
        look_for="the slope & the end",
        size=(5.0, 2.5),
        rank=widgets.IntSlider(1, 0, 8),
        kind=widgets.Dropdown(options=["thin", "fat"]),
    )


def bundle(panel) -> tuple[dict, dict]:
    return panel._repr_mimebundle_()


def test_it_shows_a_picture_before_anything_is_moved(panel):
    picture = Image.open(io.BytesIO(panel.image.value))
    assert picture.size == (500, 250)
    assert panel.image.layout.width == "500px"  # its own size: neither blurred nor cut
    assert len(picture.convert("L").getcolors()) > 10


def test_every_control_redraws_picture_and_caption(panel):
    for name, value in (("rank", 5), ("kind", "fat")):
        before = panel.image.value
        panel.controls[name].value = value
        assert panel.image.value != before
    assert panel.values == {"rank": 5, "kind": "fat"}
    assert panel.says == "A fat line up to 5 & no <further>."


def test_texts_are_text_and_not_markup(panel):
    question, hint = panel.children[0].value, panel.children[-1].value
    assert question == "<b>How &lt;steep&gt;?</b>" and hint == "<i>Look for: the slope &amp; the end</i>"
    assert panel.caption.value == "A thin line up to 1 &amp; no &lt;further&gt;."


def test_the_stored_output_is_the_picture_with_its_description(panel):
    panel.controls["rank"].value = 7
    data, metadata = bundle(panel)
    assert base64.b64decode(data["image/png"]) == panel.image.value
    assert data["text/plain"] == f"Explorer: {panel.says}"
    assert metadata == {"image/png": {"alt": panel.says}}
    assert data[KEY]["model_id"] == panel.model_id  # with a kernel JupyterLab shows the controls


def test_a_picture_carries_its_description():
    data, metadata = Picture(new_figure(), alt="an empty sheet")._repr_mimebundle_()
    assert metadata == {"image/png": {"alt": "an empty sheet"}} and data["text/plain"] == "Picture: an empty sheet"
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")


def test_callbacks_on_other_threads_draw_one_after_the_other_and_without_gradients():
    """JupyterLab runs callbacks on threads of their own, and a thread starts with gradients on."""
    drawing, together, grad = [], [], []

    def draw(figure, **values):
        drawing.append(1)
        together.append(len(drawing))
        grad.append(torch.is_grad_enabled())
        figure.subplots().plot(list(values.values()))
        drawing.pop()
        return "a line"

    sliders = {name: widgets.IntSlider(0, 0, 99) for name in "abcd"}
    panel = Panel(draw, question="?", **sliders)
    move = lambda slider: [setattr(slider, "value", value) for value in range(1, 4)]
    threads = [threading.Thread(target=move, args=[slider]) for slider in sliders.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert panel.values == dict.fromkeys("abcd", 3)
    assert len(together) == 13 and set(together) == {1} and set(grad) == {False}
    before = panel.image.value
    panel._update()
    assert panel.image.value == before  # the picture on show is the one of the last values


def test_pyplot_is_left_alone(panel):
    import matplotlib.pyplot

    panel.controls["rank"].value = 3
    assert matplotlib.pyplot.get_fignums() == []


def test_a_moved_panel_shows_what_a_new_one_shows():
    """The figure is used again: nothing of the last picture may show through."""
    from pefteach.lessons.finetuning_and_its_cost.explorer import memory_explorer

    moved, new = memory_explorer(), memory_explorer()
    for value in ("BitFit", "norms", "full fine-tuning"):
        moved.controls["method"].value = value
    assert moved.image.value == new.image.value


def test_a_move_gives_torch_its_cores_back():
    cores, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        panel = Panel(
            lambda figure, rank: seen.append(torch.get_num_threads()) or "", question="?", rank=widgets.IntSlider()
        )
        panel.controls["rank"].value = 2
        assert seen == [1, 1] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(cores)
