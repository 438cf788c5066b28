"""How long an explorer takes to answer a move, without the 25 to 40 ms that the way to the browser adds.

A panel draws its first picture when it is made; that is not a move, so it is not counted. Every move after it is, the
first to a position too: no picture is kept from one visit to the next.

Every lesson's explorer has ``example()``, which returns a ready :class:`Panel`.
"""

from __future__ import annotations

import statistics
import time

import ipywidgets

from pefteach.lessons.catalogue import LESSONS
from pefteach.lessons.kit.panel import Panel
from pefteach.workshop.rows import Row, row

LIMIT = 100.0  # ms: up to there an answer feels immediate
MOST = 20  # positions tried per slider


def run() -> list[Row]:
    """Median and 90th percentile of the milliseconds per move, for every explorer."""
    rows = []
    for name, panel in examples().items():
        taken = moves(panel)
        rows.append(row(f"{name}, median of {len(taken)} moves", "ms", statistics.median(taken), LIMIT))
        rows.append(row(f"{name}, 90th percentile", "ms", statistics.quantiles(taken, n=10)[-1], LIMIT))
    return rows


def examples() -> dict[str, Panel]:
    """A panel of every explorer, by the name of its lesson.

    Raises:
        ValueError: a lesson whose explorer has no ``example()``.
    """
    found = {}
    for lesson in LESSONS:
        if not hasattr(lesson.explorer, "example"):
            raise ValueError(f"the explorer of {lesson.name} has no example(): add one that returns a ready Panel")
        found[lesson.name] = lesson.explorer.example()
    return found


def moves(panel: Panel) -> list[float]:
    """Take every control through its values, one control at a time, and return the milliseconds of each move."""
    taken = []
    for control in panel.controls.values():
        start = control.value
        for value in [*positions(control), start]:
            if value == control.value:
                continue  # no change, no callback
            began = time.perf_counter()
            control.value = value
            taken.append(1000 * (time.perf_counter() - began))
    return taken


def positions(control: ipywidgets.Widget) -> list:
    """The values a learner can give a control, at most :data:`MOST` of a slider's.

    Raises:
        ValueError: a kind of control that is not known here.
    """
    if isinstance(control, ipywidgets.Checkbox | ipywidgets.ToggleButton):
        return [not control.value]
    if hasattr(control, "options"):  # a drop-down, radio buttons, a slider over a selection
        return [value for _, value in control._options_full]
    if isinstance(control, ipywidgets.Text):
        return [control.value[:end] for end in range(1, len(control.value))]
    if hasattr(control, "step"):
        count = round((control.max - control.min) / control.step)
        every = -(-count // MOST)  # rounded up
        return [control.min + i * control.step for i in range(0, count + 1, every)]
    raise ValueError(f"do not know how to move a {type(control).__name__}")
