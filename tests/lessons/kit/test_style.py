"""A wiped figure draws what a new one draws, and a cached text looks like a drawn one."""

import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pefteach.lessons.kit.fast.axes import bare_axes, ruled_axes, wipe
from pefteach.lessons.kit.fast.text_cache import CachedTextCanvas
from pefteach.lessons.kit.style import new_figure, png

BOX = (0.2, 0.2, 0.6, 0.6)


def pixels(canvas) -> np.ndarray:
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).astype(int)


def one(figure: Figure) -> None:
    axes = ruled_axes(figure, BOX, {0: "none", 4: "four"}, {0: "0", 2: "two"}, (0, 4), (2, 0), "title", "below")
    axes.imshow([[0, 1], [2, 3]], aspect="auto")
    axes.plot([0, 1, 4], [0, 1, 2])
    axes.fill_between([0, 1], [1, 2])
    axes.legend(["blue"])


def other(figure: Figure) -> None:
    bare_axes(figure, BOX).imshow([[4.0, 2.0, 1.0]], aspect="auto")


def message(figure: Figure) -> None:
    figure.text(0.5, 0.5, "only a text")


def ordinary(figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    left.plot([1, 2], label="a line")
    left.legend()
    figure.colorbar(right.imshow([[1, 2]]))
    figure.suptitle("with a layout of its own")


@pytest.mark.parametrize("before", [one, other, message])
@pytest.mark.parametrize("after", [one, other, message])
def test_a_wiped_figure_draws_what_a_new_one_draws(before, after):
    """Catches whatever stays behind: texts, limits, an axis turned round, a picture under the picture."""
    used, new = new_figure(), new_figure()
    before(used)
    png(used)
    wipe(used)
    after(used)
    after(new)
    assert png(used) == png(new)


def test_ordinary_axes_are_wiped_away():
    used, new = new_figure(), new_figure()
    ordinary(used)
    first = png(used)
    wipe(used)
    assert not used.axes and png(used) == png(new)
    ordinary(used)
    assert png(used) == first


def test_bare_axes_are_used_again():
    figure = new_figure()
    axes = bare_axes(figure, BOX)
    wipe(figure)
    assert bare_axes(figure, BOX) is axes and bare_axes(figure, (0, 0, 1, 1)) is not axes


@pytest.mark.parametrize(
    "text",
    [
        {"s": "Weights of q_proj"},
        {"s": "turned", "rotation": 90, "ha": "center", "va": "bottom"},
        {"s": "aslant", "rotation": 30, "fontsize": 15},
        {"s": "pale", "color": "#0072B2", "alpha": 0.4},
        {"s": "paler", "color": "#0072B240", "fontweight": "bold"},
        {"s": r"$\frac{a}{b}$ and more"},
        {"s": "two\nlines", "va": "top"},
    ],
)
def test_a_cached_text_looks_like_the_text_itself(text):
    """To a pixel. Catches a lost colour, alpha, angle or baseline, and rows upside down."""
    drawn, cached = (Figure(figsize=(2, 2), dpi=100) for _ in "ab")
    for figure in (drawn, cached):
        figure.text(0.5, 0.5, **text)
    expected, got = pixels(FigureCanvasAgg(drawn)), pixels(CachedTextCanvas(cached))
    assert abs(int(got.min()) - int(expected.min())) < 40  # as dark
    assert abs(int((255 - got).sum()) / int((255 - expected).sum()) - 1) < 0.05  # as much ink
    for axis in (0, 1):  # at the same place, to the pixel
        ink = [np.average(np.arange(200), weights=(255 - shown).sum((axis, 2))) for shown in (expected, got)]
        assert abs(ink[0] - ink[1]) < 1


def test_blanks_and_repetition():
    figure = Figure(figsize=(2, 1), dpi=100)
    figure.text(0.1, 0.5, " ")
    figure.text(0.1, 0.5, "a")
    figure.text(0.6, 0.5, "a")
    shown = pixels(CachedTextCanvas(figure))[..., 0] < 128
    assert np.array_equal(shown[:, 10:50], shown[:, 110:150]) and shown[:, :100].any()


def test_a_png_has_the_figures_size_and_its_layout():
    figure = new_figure(3.0, 2.0)
    ordinary(figure)
    picture = Image.open(io.BytesIO(png(figure)))
    assert picture.size == (300, 200)
    assert len(picture.convert("L").getcolors()) > 10  # measuring the labels must not swallow the drawing
