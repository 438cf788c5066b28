"""Axes for pictures that a slider redraws: used again from move to move, with ticks as plain lines and texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pefteach.lessons.kit.colours import GREY, INK


def bare_axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes with neither frame nor ticks, at a place of their own: left, bottom, width, height, as shares of the figure.

    For pictures that a slider redraws. No time goes into fitting a layout around labels, and axes that :func:`wipe`
    left at this place are used again: making new ones costs as much as ten labels.
    """
    figure.set_layout_engine("none")
    place = f"bare {box}"
    left_here = (axes for axes in figure.axes if axes.get_label() == place)
    axes = next(left_here, None) or figure.add_axes(box, label=place)
    axes.axis("off")
    return axes


def wipe(figure: Figure) -> None:
    """Remove everything from a figure but its bare axes, which show nothing until they are drawn on again."""
    for part in figure.get_children()[1:]:  # the first is the paper
        if not str(part.get_label()).startswith("bare "):
            part.remove()
    for axes in figure.axes:
        if legend := axes.get_legend():
            legend.remove()
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

    The ticks (label by place) are plain lines and texts, which take far less time than matplotlib's own.
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
