"""How much of a fine-tune fits into rank r?"""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pefteach.lessons.kit.panel import Panel
from pefteach.lessons.lora.figures import draw_rank


def rank_explorer(
    deltas: Mapping[str, Tensor], cut: Mapping[int, float], lora: Mapping[int, float], full: float
) -> Panel:
    """Cut the weight change of a real full fine-tune down to rank r, and compare with LoRA of that rank.

    Args:
        deltas: ΔW (out, in) of each fine-tuned matrix, by name.
        cut: accuracy with every ΔW cut to a rank, by rank; the slider moves over these ranks.
        lora: accuracy of LoRA trained at the same ranks.
        full: accuracy of the full fine-tune.

    Raises:
        ValueError: no matrix, or two sets of ranks that differ.
    """
    if not deltas:
        raise ValueError("rank_explorer needs at least one matrix: deltas is empty")
    if not cut or cut.keys() != lora.keys():
        raise ValueError(f"cut and lora must hold the same ranks, not {sorted(cut)} and {sorted(lora)}")
    # The decompositions are the slow part, so they are made once; a move only multiplies r columns.
    factors = {name: torch.linalg.svd(delta.detach(), full_matrices=False) for name, delta in deltas.items()}

    def draw(figure: Figure, rank: int, matrix: str) -> str:
        u, s, v = factors[matrix]  # (out, n), (n,), (n, in)
        approximation = (u[:, :rank] * s[:rank]) @ v[:rank]  # Eckart & Young 1936: no matrix of rank r is nearer
        return draw_rank(figure, deltas[matrix].detach(), approximation, s, rank, cut, lora, full)

    ranks = sorted(cut)
    return Panel(
        draw,
        question="How much of a full fine-tune fits into rank r, and does LoRA need that much?",
        look_for="the rank at which each curve reaches the full fine-tune, and how much of ΔW is left over there.",
        size=(6.8, 5.0),
        rank=widgets.SelectionSlider(options=ranks, value=ranks[len(ranks) // 2], description="rank r"),
        matrix=widgets.Dropdown(options=list(deltas), description="matrix"),
    )


def example() -> Panel:
    """One on made-up weights of the base's size, for whoever times or tests every explorer."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"v_proj": (64, 192), "down_proj": (192, 576)}
    deltas = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    accuracy = {rank: 1 - 1 / rank for rank in (1, 2, 4, 8, 16, 32, 64)}
    return rank_explorer(deltas, accuracy, accuracy, full=1.0)
