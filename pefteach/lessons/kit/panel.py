"""Sliders over a picture."""

from __future__ import annotations

import base64
import html
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets
import torch

from pefteach.lessons.kit.fast.axes import wipe
from pefteach.lessons.kit.style import new_figure, png

_DRAWING = threading.RLock()  # one panel at a time: torch's number of threads belongs to all of them


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep torch to one core: a move computes little, and two cores would mostly wait for each other."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


class Panel(widgets.VBox):
    """A question, controls, a picture drawn from their values, and what to look for.

    The picture is a PNG in an ``Image`` widget, drawn without pyplot: JupyterLab may run callbacks on another
    thread, and pyplot's global state does not survive that. The stored output of the cell holds the picture too,
    so an exported page, where no kernel runs, still shows it.

    Args:
        draw: ``draw(figure, **values)`` fills an empty (or wiped) figure and returns one sentence that says what it
            shows; the sentence stands under the picture and is its alternative text.
        question: above the controls.
        look_for: under the picture.
        size: width and height in inches, at 100 dpi.
        controls: ipywidgets by name; their values are the arguments of ``draw``.
    """

    def __init__(
        self,
        draw: Callable[..., str],
        *,
        question: str,
        look_for: str = "",
        size: tuple[float, float] = (6.4, 3.2),
        **controls: widgets.Widget,
    ):
        self._draw, self._figure = draw, new_figure(*size)
        self.controls = controls
        self.image = widgets.Image(format="png", layout=widgets.Layout(width=f"{size[0] * 100:.0f}px", height="auto"))
        self.caption = widgets.HTML()
        for control in controls.values():
            control.style.description_width = "initial"
            control.layout.width = "min(520px, 95%)"
            control.observe(self._update, "value")
        ask = widgets.HTML(f"<b>{html.escape(question)}</b>")
        hint = widgets.HTML(f"<i>Look for: {html.escape(look_for)}</i>" if look_for else "")
        super().__init__([ask, *controls.values(), self.image, self.caption, hint])
        self.add_class("pefteach-explorer")
        self._update()

    @property
    def values(self) -> dict:
        return {name: control.value for name, control in self.controls.items()}

    def _update(self, _: Any = None) -> None:
        # Gradient mode belongs to a thread, and this may be another one.
        with _DRAWING, torch.no_grad(), _one_core():
            wipe(self._figure)
            self.says = self._draw(self._figure, **self.values)
            self.image.value = png(self._figure)
            self.image.alt = self.says
            self.caption.value = html.escape(self.says)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict]:
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        picture = {"image/png": base64.b64encode(self.image.value).decode(), "text/plain": f"Explorer: {self.says}"}
        return {**data, **picture}, {"image/png": {"alt": self.says}}
