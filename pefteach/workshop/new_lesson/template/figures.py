"""Pictures of the lesson: each function draws on a figure and returns a sentence that says what it shows."""

from __future__ import annotations

from matplotlib.figure import Figure

from pefteach.lessons.kit.colours import BLUE
from pefteach.lessons.kit.style import style


def draw_line(figure: Figure, slope: float) -> str:
    """TODO: a line through zero of this slope; draw the lesson's idea instead."""
    axes = figure.subplots()
    style(axes, f"slope {slope:g}", "x", "y")
    axes.plot([-1, 1], [-slope, slope], color=BLUE)
    axes.set(xlim=(-1, 1), ylim=(-2, 2))
    return f"A line through zero. It {'rises' if slope > 0 else 'does not rise'}: its slope is {slope:g}."
