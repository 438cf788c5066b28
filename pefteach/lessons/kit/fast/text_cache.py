"""Caches rendered text, because matplotlib would shape and render every label anew for every picture.

Most labels were there before the move, and they take more than half of the time of a picture with thirty of them.
Here a text is rendered when it first appears, and later drawings copy its pixels. They start at whole pixels, so that
a text looks the same wherever it stands.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg

KEPT = 4096  # texts, of a few kilobytes each


class CachedTextCanvas(FigureCanvasAgg):
    """matplotlib's canvas, with its texts taken from the cache."""

    renderer: RendererAgg | None = None

    def get_renderer(self) -> RendererAgg:
        self.renderer = self.renderer or _Renderer(*self.figure.bbox.size, self.figure.dpi)
        return self.renderer


class _Renderer(RendererAgg):
    def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> tuple[float, float, float]:
        return _extent(s, prop, ismath, self.dpi)

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False, mtext: Any = None
    ) -> None:
        left, bottom, pixels = _rendered(s, prop, ismath, angle, gc.get_rgb(), self.dpi)
        self.draw_image(gc, round(x) + left, self.height - round(y) + bottom, pixels)  # y counts from the top


@lru_cache(KEPT)
def _extent(s: str, prop: Any, ismath: Any, dpi: float) -> tuple[float, float, float]:
    return RendererAgg(1, 1, dpi).get_text_width_height_descent(s, prop, ismath)


@lru_cache(KEPT)
def _rendered(s: str, prop: Any, ismath: Any, angle: float, colour: tuple, dpi: float) -> tuple[int, int, np.ndarray]:
    """Where the text's pixels begin, left of and below the point it stands at, and the pixels (height, width, RGBA)."""
    width, height, _ = _extent(s, prop, ismath, dpi)
    reach = math.ceil(math.hypot(width, height)) + 2  # in every direction, as the text may be turned
    sheet = RendererAgg(2 * reach, 2 * reach, dpi)
    gc = sheet.new_gc()
    gc.set_foreground(colour, isRGBA=True)
    sheet.draw_text(gc, reach, reach, s, prop, angle, ismath)
    pixels = np.asarray(sheet.buffer_rgba())[::-1]  # from the bottom up, as draw_image wants them
    rows, columns = (np.flatnonzero(pixels[..., 3].any(axis)) for axis in (1, 0))
    if not len(rows):  # nothing but blanks
        return 0, 0, np.zeros((1, 1, 4), np.uint8)
    bottom, left = int(rows[0]), int(columns[0])
    return left - reach, bottom - reach, pixels[bottom : rows[-1] + 1, left : columns[-1] + 1].copy()
