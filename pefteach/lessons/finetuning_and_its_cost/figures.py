"""The pictures of lesson 2: memory by phase, what few trained parameters save, and what is forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pefteach.lessons.kit.colours import BLUE, GREEN, GREY, INK, ORANGE, PINK, SKY
from pefteach.lessons.kit.fast.axes import ruled_axes
from pefteach.lessons.kit.style import style
from pefteach.measure.forgetting import Knowledge
from pefteach.memory.cards import CARDS, smallest_card
from pefteach.memory.count import Bytes

PHASES = {"weights": GREY, "gradients": ORANGE, "optimizer": PINK, "activations": SKY}


def draw_memory(figure: Figure, plans: Mapping[str, Bytes], chosen: str) -> str:
    """Draw one stacked bar per plan, the chosen one strong, and a line for every card that the axis reaches.

    Raises:
        KeyError: ``chosen`` is not among the plans.
    """
    names, largest = list(plans), max(p.total for p in plans.values())
    unit, label = (10**9, "GB") if largest >= 10**9 else (10**6, "MB")
    limit = 1.15 * largest / unit
    below, above = 0.5 / figure.get_figheight(), 0.62 / figure.get_figheight()  # inches for the labels
    axes = ruled_axes(
        figure, (0.235, below, 0.735, 1 - below - above),
        xticks={value: f"{value:.6g}" for value in MaxNLocator(5).tick_values(0, limit) if value <= limit},
        yticks=dict(enumerate(names)),
        xlim=(0, limit), ylim=(len(names) - 0.35, -0.65),  # the first plan on top
        xlabel=f"{label} at the end of a forward pass; dashed: cards of so many GB",
    )  # fmt: skip
    ends = [0.0] * len(names)
    for phase, colour in PHASES.items():
        starts, ends = ends, [end + getattr(p, phase) / unit for end, p in zip(ends, plans.values(), strict=True)]
        colours = [(colour, 1.0 if name == chosen else 0.45) for name in names]
        bars = [
            [(start, row - 0.35), (end, row - 0.35), (end, row + 0.35), (start, row + 0.35)]
            for row, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]
        axes.add_collection(PolyCollection(bars, facecolors=colours, label=phase), autolim=False)  # faster than barh
    for row, (name, end) in enumerate(zip(names, ends, strict=True)):
        weight = "bold" if name == chosen else "normal"
        axes.text(end + limit / 100, row, _three_digits(end), va="center", fontsize=9, color=INK, fontweight=weight)
    handles = [Patch(color=colour, label=phase) for phase, colour in PHASES.items()]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.13), ncols=len(handles), fontsize=9, labelcolor=INK,
        frameon=False, borderaxespad=0, borderpad=0, handlelength=1, handleheight=1,
    )  # fmt: skip
    _draw_cards(axes, limit if label == "GB" else 0)
    return _sentence(chosen, plans[chosen])


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _draw_cards(axes: Axes, limit: float) -> None:
    cards = [card for card in CARDS if card < limit]
    place = axes.get_xaxis_transform()  # x in data, y from 0 to 1
    axes.vlines(cards, 0, 1, transform=place, color=INK, linewidth=0.8, linestyle="--", label="cards")
    last = 2 * limit
    for card in reversed(cards):
        if last - card > limit / 25:  # else the labels would overlap
            axes.text(card, 1.02, str(card), transform=place, ha="center", fontsize=9, color=INK)
            last = card


def _sentence(name: str, plan: Bytes) -> str:
    unit, label = (10**9, "GB") if plan.total >= 10**9 else (10**6, "MB")
    parts = ", ".join(f"{phase} {_three_digits(getattr(plan, phase) / unit)}" for phase in PHASES)
    card = smallest_card(plan.total)
    fits = f"the smallest card that holds it has {card} GB" if card else f"no card of {CARDS[-1]} GB holds it"
    return f"{name}: {parts}; together {_three_digits(plan.total / unit)} {label}, and {fits}."


def draw_costs(figure: Figure, costs: Mapping[str, tuple[float, float, float]]) -> str:
    """Draw three costs of every method beside each other, as shares of full fine-tuning's.

    Args:
        costs: per method, its trained parameters, saved activation bytes and operations per step, each divided by
            those of full fine-tuning.
    """
    titles = ("trained parameters", "saved activations", "operations per step")
    names = list(costs)
    panels = figure.subplots(1, 3, sharey=True)
    for i, (axes, title, colour) in enumerate(zip(panels, titles, (BLUE, SKY, GREEN), strict=True)):
        shares = [100 * costs[name][i] for name in names]
        axes.barh(names, shares, color=colour, height=0.7)
        style(axes, title, "% of full fine-tuning")
        axes.set_xlim(0, 135)
        for name, share in zip(names, shares, strict=True):
            axes.text(
                share + 2, name, f"{share:.2g}" if share < 10 else f"{share:.0f}", va="center", fontsize=9, color=INK
            )
    panels[0].invert_yaxis()
    rows = "; ".join(f"{name} {', '.join(_percent(100 * share) for share in cost)}" for name, cost in costs.items())
    return f"Per cent of full fine-tuning in {', '.join(titles)}: {rows}."


def _percent(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def draw_forgetting(figure: Figure, runs: Mapping[str, Sequence[Knowledge]]) -> str:
    """Draw what each row still knows, old skills and story loss: the mean over runs as a bar, each run as a dot."""
    panels = figure.subplots(1, 2, sharey=True)
    titles = (("old skills", "mean accuracy", "mean"), ("stories", "loss per token (nats)", "stories"))
    says = []
    for axes, (title, label, field), colour in zip(panels, titles, (BLUE, ORANGE), strict=True):
        means = [mean(getattr(k, field) for k in known) for known in runs.values()]
        axes.barh(list(runs), means, color=colour, height=0.6, alpha=0.6)
        for name, known in runs.items():
            axes.plot([getattr(k, field) for k in known], [name] * len(known), "o", color=INK, markersize=4)
        style(axes, title, label)
        says.append(f"{title}, {label}: " + ", ".join(f"{name} {m:.2f}" for name, m in zip(runs, means, strict=True)))
    panels[0].set_xlim(0, 1.05)
    panels[0].invert_yaxis()
    return "; ".join(says) + "."
