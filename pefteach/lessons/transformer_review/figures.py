"""Pictures for lesson 1: the decoder, attention step by step, attention maps, and what two details of it do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from pefteach.lessons.kit.colours import BLUE, GREEN, GREY, INK, ORANGE, PAPER, PINK, SKY
from pefteach.lessons.kit.fast.axes import bare_axes
from pefteach.lessons.kit.style import new_figure, style

SHADES = "cividis"  # even in brightness, and the same to readers who cannot tell red from green


def decoder_figure(layers: int, width: int) -> Figure:
    """A decoder as one stream of vectors of ``width`` numbers, which ``layers`` blocks read and add to."""
    figure = new_figure(7.6, 2.9)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 76), ylim=(0, 29))
    axes.axis("off")

    def box(x: float, y: float, wide: float, text: str, colour: str) -> None:
        shape = FancyBboxPatch(
            (x, y), wide, 4.4, "round,pad=0.2,rounding_size=0.8", fc=colour + "33", ec=colour, lw=1.5
        )
        axes.add_patch(shape)
        axes.text(x + wide / 2, y + 2.2, text, ha="center", va="center", fontsize=9, color=INK)

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=INK, lw=1.2))

    axes.plot([10, 62.5], [8, 8], color=GREY, lw=5, solid_capstyle="butt", zorder=0)
    axes.text(38, 4.2, f"the stream: {width} numbers per token", ha="center", fontsize=9, color=INK)
    box(1, 5.8, 9, "embedding", GREEN)
    box(62.5, 5.8, 12.5, "norm, scores", GREEN)
    axes.add_patch(FancyBboxPatch((13, 6), 46, 21, "round,pad=0.2,rounding_size=1.5", fc="none", ec=GREY, ls="--"))
    axes.text(58, 24.3, f"one block, {layers} times", ha="right", fontsize=9, color=INK)
    for left, name, colour in ((16, "attention", BLUE), (38, "MLP", ORANGE)):
        box(left, 11.3, 6, "norm", SKY)
        box(left - 1, 18, 12, name, colour)
        arrow((left + 3, 8.2), (left + 3, 11.2))
        arrow((left + 3, 16), (left + 3, 17.9))
        arrow((left + 9.5, 17.6), (left + 9.5, 9.5))
        axes.text(left + 9.5, 8, "+", ha="center", va="center", fontsize=13, color=INK,
                  bbox={"boxstyle": "circle,pad=0.15", "fc": PAPER, "ec": INK})  # fmt: skip
    arrow((5.5, 1.5), (5.5, 5.5))
    axes.text(6.5, 1.2, "tokens", fontsize=9, color=INK)
    arrow((68.5, 10.5), (68.5, 15.5))
    axes.text(68.5, 16.2, "next token", ha="center", fontsize=9, color=INK)
    return figure


def steps_figure(matrices: dict[str, Tensor]) -> Figure:
    """Score matrices (T, S) side by side, by name; minus infinity is left blank."""
    figure = new_figure(7.2, 2.6)
    for axes, (name, matrix) in zip(figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items()):
        picture = axes.imshow(matrix.masked_fill(matrix.isinf(), float("nan")).numpy(), cmap=SHADES)
        style(axes, name, "key", "query")
        axes.grid(False)
        axes.set_xticks(range(matrix.shape[1]))
        axes.set_yticks(range(matrix.shape[0]))
        figure.colorbar(picture, ax=axes, shrink=0.7).ax.tick_params(labelsize=8, colors=INK)
    return figure


def draw_attention_map(figure: Figure, weights: Tensor, labels: Sequence[str]) -> str:
    """Fill ``figure`` with attention weights (T, T), one row per query, and say where the last token looks.

    Raises:
        ValueError: not one label per token.
    """
    if weights.shape != (len(labels), len(labels)):
        raise ValueError(f"{len(labels)} labels do not fit attention weights of shape {tuple(weights.shape)}")
    axes = bare_axes(figure, (0.19, 0.02, 0.7, 0.78))
    later = torch.ones_like(weights, dtype=torch.bool).triu(1)  # left blank: what a token may not look at
    axes.imshow(weights.masked_fill(later, torch.nan).numpy(), vmin=0, vmax=1, cmap=SHADES, aspect="auto")
    font: dict[str, Any] = {"fontsize": 9, "color": INK, "parse_math": False}  # a sentence may hold a dollar sign
    for place, label in enumerate(labels):
        axes.text(-0.7, place, label, ha="right", va="center", **font)
        axes.text(place, -0.7, label, ha="center", va="bottom", rotation=90, **font)
    figure.text(0.01, 0.41, "this token (query) …", rotation=90, va="center", fontsize=10, color=INK)
    figure.text(0.54, 0.965, "… looks at (key)", ha="center", fontsize=10, color=INK)
    scale = bare_axes(figure, (0.92, 0.02, 0.025, 0.78))
    scale.imshow(torch.linspace(1, 0, 64)[:, None].numpy(), cmap=SHADES, aspect="auto")
    figure.text(0.955, 0.79, "1", va="top", fontsize=9, color=INK)
    figure.text(0.955, 0.02, "0", fontsize=9, color=INK)
    last = weights[-1]
    return f"The last token, '{labels[-1]}', looks most at '{labels[int(last.argmax())]}' (weight {last.max():.2f})."


def draw_message(figure: Figure, message: str) -> str:
    """Fill ``figure`` with one sentence, for when there is nothing to draw, and return it."""
    figure.text(0.5, 0.5, message, ha="center", va="center", fontsize=11, color=INK, wrap=True)
    return message


def ablation_figure(names: Sequence[str], accuracy: Sequence[float], loss: Sequence[float]) -> Figure:
    """One bar per variant of a model: its accuracy on the skills (0 to 1) and its loss on stories (nats per token)."""
    figure = new_figure(7.2, 2.4)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, values, title, colour in (
        (left, accuracy, "Skills: accuracy", BLUE),
        (right, loss, "Stories: loss", ORANGE),
    ):
        bars = axes.barh(range(len(names)), values, color=colour)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9, color=INK)
        style(axes, title)
        axes.margins(x=0.15)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_xlim(0, 1.2)
    return figure


def softness_figure(sizes: Sequence[int], lines: dict[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Entropy (nats) and typical slope of a softmax against the head size; lines are (entropy, slope) by name."""
    figure = new_figure(7.2, 2.8)
    left, right = figure.subplots(1, 2)
    for (name, (entropy, slope)), colour, mark in zip(lines.items(), (PINK, BLUE), "os"):
        left.plot(sizes, entropy, mark + "-", color=colour, label=name)
        right.plot(sizes, slope, mark + "-", color=colour, label=name)
    style(left, "Entropy of the weights", "head size d", "nats")
    style(right, "Slope of the softmax (median)", "head size d")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
    right.set_yscale("log")
    left.legend(frameon=False, fontsize=9)
    return figure
