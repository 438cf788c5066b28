"""Pictures of low rank: the shapes of LoRA, and a change of weights cut down to rank r."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch
from torch import Tensor

from pefteach.lessons.kit.colours import BLUE, GREY, INK, ORANGE, SKY
from pefteach.lessons.kit.fast.axes import bare_axes, ruled_axes

CORNER = 64  # rows and columns of a matrix that a heat map shows


def draw_low_rank(figure: Figure, fan_in: int, fan_out: int, rank: int) -> str:
    """W0 (out, in) beside B (out, r) and A (r, in), the sides drawn to scale."""
    axes = figure.subplots()
    axes.set_axis_off()
    gap = 0.35 * fan_in
    left_b, left_a = fan_in + gap, fan_in + gap + rank + gap / 2
    boxes = [
        (0, 0, fan_in, fan_out, GREY, f"W0, frozen\n({fan_out}, {fan_in})"),
        (left_b, 0, rank, fan_out, ORANGE, f"B ({fan_out}, {rank})"),
        (left_a, (fan_out - rank) / 2, fan_in, rank, BLUE, f"A ({rank}, {fan_in})"),
    ]
    for left, bottom, width, height, colour, label in boxes:
        axes.add_patch(Rectangle((left, bottom), width, height, facecolor=colour, alpha=0.75, edgecolor=INK))
        inside = width > fan_in / 2 and height > fan_out / 2
        place = (bottom + height / 2, "center") if inside else (bottom - 0.06 * fan_out, "top")
        axes.text(left + width / 2, place[0], label, ha="center", va=place[1], color=INK, fontsize=10)
    axes.text(fan_in + gap / 2, fan_out / 2, "+ s ·", ha="center", va="center", fontsize=15, color=INK)
    axes.set_xlim(-2, left_a + fan_in + 2)
    axes.set_ylim(-0.3 * fan_out, 1.1 * fan_out)
    axes.set_aspect("equal")
    dense, thin = fan_in * fan_out, rank * (fan_in + fan_out)
    return (
        f"To scale: the frozen weight W0 holds {dense:,} numbers; beside it stand B, {fan_out} by {rank}, and A, "
        f"{rank} by {fan_in}, with {thin:,} numbers together."
    )


def draw_rank(
    figure: Figure,
    delta: Tensor,
    approximation: Tensor,
    singular: Tensor,
    rank: int,
    cut: Mapping[int, float],
    lora: Mapping[int, float],
    full: float,
) -> str:
    """A change of weights, its best approximation of rank r, the spectrum, and the accuracies by rank.

    Args:
        delta, approximation: ΔW and its best approximation of rank ``rank``, both (out, in).
        singular: the singular values of ΔW, largest first.
        cut, lora: accuracy by rank, of ΔW cut to that rank and of LoRA trained at that rank (the same ranks).
        full: accuracy of the full fine-tune.
    """
    kept = float(singular[:rank].square().sum() / singular.square().sum())
    _draw_maps(figure, delta, approximation, rank)
    _draw_spectrum(figure, singular, rank, kept)
    _draw_accuracy(figure, rank, cut, lora, full)
    return (
        f"Rank {rank} of {len(singular)} holds {kept:.0%} of ΔW's energy in this matrix. Accuracy: "
        f"full fine-tune {full:.2f}, its ΔW cut to rank {rank} {cut[rank]:.2f}, LoRA of rank {rank} {lora[rank]:.2f}."
    )


def _draw_maps(figure: Figure, delta: Tensor, approximation: Tensor, rank: int) -> None:
    first, second = (m[:CORNER, :CORNER].numpy() for m in (delta, approximation))
    gap = np.full((first.shape[0], first.shape[1] // 8), np.nan)
    limit = float(np.abs(first).max()) / 2
    axes = bare_axes(figure, (0.03, 0.55, 0.94, 0.36))
    axes.imshow(
        np.hstack([first, gap, second, gap, first - second]), cmap="PuOr", vmin=-limit, vmax=limit,
        aspect="auto", interpolation="nearest",
    )  # fmt: skip
    step = first.shape[1] + gap.shape[1]
    for i, title in enumerate(("ΔW of the full fine-tune", f"best rank {rank}", "what is left")):
        axes.text(i * step, -2, title, fontsize=11, color=INK, va="bottom")


def _draw_spectrum(figure: Figure, singular: Tensor, rank: int, kept: float) -> None:
    values, count, top = singular.numpy(), len(singular), float(singular[0])
    axes = ruled_axes(
        figure, (0.09, 0.11, 0.36, 0.3),
        xticks={place: str(place) for place in (0, count // 2, count)},
        yticks={0: "0", top: f"{top:.3g}"},
        xlim=(0, count), ylim=(0, 1.05 * top),
        title=f"Singular values: {kept:.0%} of energy kept", xlabel="direction, strongest first",
    )  # fmt: skip
    for shown, colour in ((values, GREY + "80"), (values[:rank], BLUE)):
        # axes.stairs would also look for the limits, which are known
        axes.add_artist(StepPatch(shown, range(len(shown) + 1), facecolor=colour))


def _draw_accuracy(figure: Figure, rank: int, cut: Mapping[int, float], lora: Mapping[int, float], full: float) -> None:
    ranks = sorted(cut)
    place = range(len(ranks))
    axes = ruled_axes(
        figure, (0.56, 0.11, 0.41, 0.3),
        xticks={i: str(r) for i, r in enumerate(ranks)},
        yticks={0: "0.0", 0.5: "0.5", 1: "1.0"},
        xlim=(-0.3, len(ranks) - 0.7), ylim=(-0.05, 1.1),
        title="Accuracy on the new skill", xlabel="rank",
    )  # fmt: skip
    axes.axvline(ranks.index(rank), color=SKY, linewidth=8, alpha=0.5)
    axes.axhline(full, color=GREY, linestyle=":", label="full fine-tune")
    axes.plot(place, [cut[r] for r in ranks], color=ORANGE, marker="s", linestyle="--", label="its ΔW, cut")
    axes.plot(place, [lora[r] for r in ranks], color=BLUE, marker="o", label="LoRA")
    axes.legend(loc="lower right", fontsize=9, labelcolor=INK, frameon=False)
