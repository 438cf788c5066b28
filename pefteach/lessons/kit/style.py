"""One look for all figures: readable on a light page and a dark one, and without telling red from green."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pefteach.lessons.kit.stamps import StampCanvas

# Okabe & Ito's colours, in the order of use. They differ in brightness too.
BLUE, ORANGE, GREEN, PINK, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#777777"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, GREY)
PAPER, INK = "#FCFCFA", "#222222"  # a light sheet of its own, so that dark mode does not swallow the ink


def new_figure(width: float = 6.4, height: float = 3.2) -> Figure:
    """An empty figure on its own light paper (inches at 100 dpi)."""
    return Figure(figsize=(width, height), dpi=100, facecolor=PAPER, layout="constrained")


def style(axes: Any, title: str, xlabel: str = "", ylabel: str = "") -> None:
    """Title and labels; no frame on the right and on top; a faint grid."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.set_facecolor(PAPER)
    axes.spines[["right", "top"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(alpha=0.2)
    axes.set_axisbelow(True)


def bare_axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes with neither frame nor ticks, at a place of their own: left, bottom, width, height, as shares of the figure.

    For pictures that a slider redraws: no time goes into fitting a layout around labels, and axes that
    :func:`wipe` left at this place are used again, because making new ones costs as much as ten labels.
    """
    figure.set_layout_engine("none")
    place = f"bare {box}"
    left_here = (axes for axes in figure.axes if axes.get_label() == place)
    axes = next(left_here, None) or figure.add_axes(box, label=place)
    axes.axis("off")
    return axes


def wipe(figure: Figure) -> None:
    """Take everything off a figure but its bare axes, which show nothing until they are drawn on again."""
    for part in figure.get_children()[1:]:  # the first is the paper
        if not str(part.get_label()).startswith("bare "):
            part.remove()
    for axes in figure.axes:
        for artist in (*axes.images, *axes.collections, *axes.patches, *axes.lines, *axes.texts):
            artist.remove()
        axes.set_prop_cycle(None)  # the first colour again, and no limits
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.relim()
        axes.autoscale()


def ruled_axes(
    figure: Figure,
    box: tuple[float, float, float, float],
    xticks: Mapping[float, str],
    yticks: Mapping[float, str],
    xlim: tuple[float, float],
    ylim: tuple[float, float],
    title: str = "",
    xlabel: str = "",
) -> Axes:
    """Axes in the style of :func:`style`, for pictures that a slider redraws.

    The ticks (label by place) are plain lines and texts: matplotlib's own cost two milliseconds each.
    """
    axes = bare_axes(figure, box)
    axes.set(xlim=xlim, ylim=ylim)
    x_data, y_data = axes.get_xaxis_transform(), axes.get_yaxis_transform()  # the other way counts from 0 to 1
    grid: dict[str, Any] = {"color": GREY, "alpha": 0.15, "linewidth": 0.8, "zorder": 0}
    axes.vlines(list(xticks), 0, 1, transform=x_data, **grid)
    axes.hlines(list(yticks), 0, 1, transform=y_data, **grid)
    axes.plot([0, 0, 1], [1, 0, 0], transform=axes.transAxes, color=INK, linewidth=0.8, clip_on=False)
    inch_x, inch_y = 1 / (box[2] * figure.get_figwidth()), 1 / (box[3] * figure.get_figheight())
    font: dict[str, Any] = {"color": INK, "fontsize": 9}
    for place, label in xticks.items():
        axes.text(place, -0.07 * inch_y, label, transform=x_data, ha="center", va="top", **font)
    for place, label in yticks.items():
        axes.text(-0.07 * inch_x, place, label, transform=y_data, ha="right", va="center_baseline", **font)
    axes.text(0, 1 + 0.06 * inch_y, title, transform=axes.transAxes, color=INK, fontsize=11)
    axes.text(0.5, -0.25 * inch_y, xlabel, transform=axes.transAxes, ha="center", va="top", color=INK, fontsize=10)
    return axes


def key(figure: Figure, x: float, y: float, mark: str, colour: str, label: str) -> None:
    """One entry of a legend, at a place given in shares of the figure. matplotlib's own legend costs much more time."""
    figure.text(x, y, mark, ha="center", va="center_baseline", color=colour, fontsize=11)
    figure.text(x + 0.1 / figure.get_figwidth(), y, label, va="center_baseline", color=INK, fontsize=9)


def png(figure: Figure) -> bytes:
    canvas = StampCanvas(figure)
    canvas.draw()  # once; savefig would draw twice, for the layout and for the picture
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(buffer, "png", compress_level=1)  # fast, a little larger
    return buffer.getvalue()


class Picture:
    """A figure to end a cell with: a PNG with its description for those who cannot see it."""

    def __init__(self, figure: Figure, alt: str):
        self.png, self.alt = png(figure), alt

    def _repr_mimebundle_(self, **_):
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": f"Picture: {self.alt}"}
        return data, {"image/png": {"alt": self.alt}}
