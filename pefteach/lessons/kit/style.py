"""One look for all figures: readable on a light page and a dark one, and without telling red from green."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from pefteach.lessons.kit.colours import INK, PAPER
from pefteach.lessons.kit.fast.text_cache import CachedTextCanvas


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


def png(figure: Figure) -> bytes:
    canvas = CachedTextCanvas(figure)
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
