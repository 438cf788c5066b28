"""The lesson's explorer: one question that a slider answers."""

from __future__ import annotations

import ipywidgets as widgets

from pefteach.lessons.kit.panel import Panel
from pefteach.workshop.new_lesson.template.figures import draw_line


def slope_explorer() -> Panel:
    """TODO: move the slope of a line; let the learner move the lesson's own number instead."""
    return Panel(
        draw_line,
        question="TODO: What does the slope change?",
        look_for="TODO: the value at which the line lies flat.",
        slope=widgets.FloatSlider(1.0, min=-2.0, max=2.0, step=0.5, description="slope"),
    )


def example() -> Panel:
    """A ready explorer, for whoever times or tests every explorer."""
    return slope_explorer()
