"""Pictures of few bits: a weight on its levels, QLoRA's two paths, and what each number of bits costs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle, StepPatch
from torch import Tensor

from pefteach.lessons.kit.colours import BLUE, GREEN, GREY, INK, ORANGE, SKY
from pefteach.lessons.kit.fast.axes import bare_axes, ruled_axes
from pefteach.lessons.kit.style import style

BINS = 64  # of the histograms, from -1 to 1
MOST_LOSS = 1.5  # nats: where the axis of the losses ends


def histogram(scaled: Tensor) -> Tensor:
    """How many of the values, all in [-1, 1], fall into each of ``BINS`` equal parts: (BINS,) float32."""
    return torch.histc(scaled.float(), BINS, -1, 1)


def draw_levels(figure: Figure, block: Tensor, scaled: Tensor, levels: Tensor) -> str:
    """One block on its levels, and beside it how often each value occurs in the whole weight.

    Args:
        block: the weights of one block, divided by the largest magnitude among them, (64,).
        scaled: the same of all blocks, any shape.
        levels: the values that codes stand for, in increasing order.
    """
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    nearest = levels[(block[:, None] - levels).abs().argmin(1)]
    place = range(len(block))
    for axes in (left, right):
        axes.hlines(levels.tolist(), 0, 1, transform=axes.get_yaxis_transform(), color=ORANGE, linewidth=0.8)
    left.vlines(place, block.tolist(), nearest.tolist(), color=GREY, linewidth=1)
    left.plot(place, block.tolist(), ".", color=BLUE, label="weight")
    left.plot(place, nearest.tolist(), "_", color=INK, markersize=7, label="its level")
    style(left, f"One block of {len(block)}: every weight moves to a level", "place in the block", "weight / scale")
    left.set_ylim(-1.08, 1.3)  # room for the legend
    left.legend(loc="upper right", fontsize=8, ncols=2)
    left.grid(False)
    middles = torch.linspace(-1, 1, 2 * BINS + 1)[1::2]
    right.barh(middles.tolist(), histogram(scaled).tolist(), height=2 / BINS, color=BLUE, alpha=0.75)
    style(right, "All blocks", "weights")
    right.grid(False)
    return (
        f"{len(block)} weights of one block, divided by its largest, as dots, and {len(levels)} levels as lines: each "
        "dot goes to its nearest line. A histogram of all blocks beside it: most weights lie near zero, and there the "
        "lines are dense."
    )


def draw_qlora(figure: Figure, fan_in: int, fan_out: int, rank: int) -> str:
    """QLoRA's two paths from x to y, forward in ink and backward in green. The codes are a quarter as wide as W."""
    axes = bare_axes(figure, (0.01, 0.01, 0.98, 0.98))
    axes.set(xlim=(0, 100), ylim=(0, 52))
    _box(axes, 34, 41, 7, 10, GREY)
    axes.text(43, 46, "frozen codes, 4 bits each,\nand a scale per block", va="center", fontsize=9, color=INK)
    _box(axes, 34, 22, 28, 10, "none", f"W ({fan_out}, {fan_in}) in full,\nfor one product", dashed=True)
    _box(axes, 34, 4, 11, 7, BLUE, f"A ({rank}, {fan_in})")
    _box(axes, 52, 4, 11, 7, ORANGE, f"B ({fan_out}, {rank})")
    for x, name in ((8, "x"), (84, "+"), (95, "y")):
        axes.text(x, 27, name, ha="center", va="center", fontsize=15, color=INK)
    axes.text(43, 36.5, "dequantise: forward, and again backward", va="center", fontsize=9, color=INK)
    forward = [((36.5, 40.5), (36.5, 32.5)), ((10, 28), (33.5, 28)), ((62.5, 28), (82, 28)), ((86, 28), (93.5, 28)),
               ((10, 25.5), (33.5, 9)), ((45.5, 8.5), (51.5, 8.5)), ((63.5, 9), (82.5, 25))]  # fmt: skip
    backward = [((93.5, 26), (86, 26)), ((82, 26), (62.5, 26)), ((33.5, 26), (10, 26)), ((83.5, 23.5), (63.5, 6.5)),
                ((51.5, 6.5), (45.5, 6.5)), ((33.5, 6.5), (9, 23.5)), ((39, 40.5), (39, 32.5))]  # fmt: skip
    for arrows, colour in ((forward, INK), (backward, GREEN)):
        for start, end in arrows:
            axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=colour, linewidth=1.1))
    axes.text(99, 48, "→ forward", ha="right", va="center", fontsize=9, color=INK)
    axes.text(99, 44, "← backward", ha="right", va="center", fontsize=9, color=GREEN)
    return (
        f"From x two paths lead to y and are added. Above, frozen codes of 4 bits are dequantised to W, {fan_out} by "
        f"{fan_in}, for one product. Below, x passes A, {rank} by {fan_in}, and B, {fan_out} by {rank}. Backward, W is "
        "dequantised again, to pass the gradient on to x. A and B get gradients; no arrow goes to the codes."
    )


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, colour: str, label: str = "", dashed: bool = False
) -> None:
    line = (0, (4, 3)) if dashed else "solid"
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=INK, linestyle=line, alpha=0.75))
    axes.text(x + width / 2, y + height / 2, label, ha="center", va="center", fontsize=9, color=INK)


def draw_bits(
    figure: Figure,
    counts: Tensor,
    levels: Tensor,
    kind: str,
    block: int,
    errors: Mapping[str, float],
    bits: Mapping[str, float],
    losses: Mapping[str, float],
    full: float,
) -> str:
    """The levels of one kind over the weights they have to serve, and the error and loss of every kind.

    Args:
        counts: how many weights, divided by the scale of their block, fall into each of equal parts of [-1, 1].
        levels: of the chosen kind, in increasing order.
        errors: root mean square error of one weight by kind, as a share of its root mean square.
        bits: bits per weight by kind, scales included.
        losses: loss of the base (nats per token) by the same kinds; ``full`` is that without quantisation.
    """
    _draw_histogram(figure, counts, levels, kind, block)
    shares = {name: 100 * error for name, error in errors.items()}
    _draw_bars(
        figure, (0.08, 0.1, 0.39, 0.31), shares, "{:.2g}", kind, 100, {0: "0", 50: "50", 100: "100"},
        "Error of this weight (%)", SKY,
    )  # fmt: skip
    _draw_bars(
        figure, (0.57, 0.1, 0.41, 0.31), losses, "{:.3g}", kind, MOST_LOSS, {0: "0", full: f"{full:.2g}", 1: "1"},
        "Loss of the base, all blocks so", ORANGE,
    )  # fmt: skip
    return (
        f"{kind} in blocks of {block}: {bits[kind]:.2f} bits per weight, {len(levels)} levels, error "
        f"{errors[kind]:.1%} of the weight. Loss of the base with all its blocks held so: {losses[kind]:.3f} nats per "
        f"token, against {full:.3f} in 32 bits."
    )


def _draw_histogram(figure: Figure, counts: Tensor, levels: Tensor, kind: str, block: int) -> None:
    heights = counts / counts.max()
    axes = ruled_axes(
        figure, (0.08, 0.6, 0.9, 0.31),
        xticks={place: str(place) for place in (-1, -0.5, 0, 0.5, 1)}, yticks={},
        xlim=(-1.03, 1.03), ylim=(0, 1.05),
        title=f"{kind}: {len(levels)} levels (orange) for weights divided by the largest of their block of {block}",
        xlabel="weight / scale of its block",
    )  # fmt: skip
    edges = torch.linspace(-1, 1, len(counts) + 1).numpy()
    axes.add_artist(StepPatch(heights.numpy(), edges, facecolor=BLUE, alpha=0.75))
    thin = 0.5 if len(levels) > 99 else 1.5
    axes.vlines(levels.tolist(), 0, 1.05, color=ORANGE, linewidth=thin, label="levels")


def _draw_bars(
    figure: Figure,
    box: tuple[float, float, float, float],
    values: Mapping[str, float],
    form: str,
    chosen: str,
    limit: float,
    yticks: Mapping[float, str],
    title: str,
    colour: str,
) -> None:
    """A bar per name, the chosen one strong; a bar that would leave the axis ends there, with an arrow at its label."""
    axes = ruled_axes(
        figure, box, xticks=dict(enumerate(values)), yticks=yticks, xlim=(-0.6, len(values) - 0.4), ylim=(0, limit),
        title=title,
    )  # fmt: skip
    for place, (name, value) in enumerate(values.items()):
        alpha = 1.0 if name == chosen else 0.45
        axes.add_artist(Rectangle((place - 0.35, 0), 0.7, min(value, limit), facecolor=colour, alpha=alpha))
        label, high = form.format(value), value > 0.9 * limit
        axes.text(
            place, 0.97 * limit if high else value + 0.02 * limit, f"↑ {label}" if value > limit else label,
            ha="center", va="top" if high else "bottom", fontsize=9, color=INK,
        )  # fmt: skip
