"""How many bits does a weight need, and which levels should it have?"""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pefteach.lessons.kit.panel import Panel
from pefteach.lessons.qlora.figures import draw_bits, histogram
from pefteach.quant.damage import GRIDS
from pefteach.quant.grids import in_groups

KINDS = tuple(GRIDS)[::-1]  # from few bits to many


def levels(kind: str) -> Tensor:
    """The values that the codes of a kind stand for, as shares of the scale, in increasing order."""
    everywhere = torch.linspace(-1, 1, 2**13)
    return GRIDS[kind](everywhere, len(everywhere)).dequantise().unique()


def bits_explorer(weight: Tensor, losses: Mapping[tuple[str, int], float], full: float) -> Panel:
    """Put a weight of the base on the grids that people use, and see what that costs.

    Args:
        weight: any shape.
        losses: loss of the base (nats per token) with its blocks held so, by kind of grid and block size; the
            controls offer these. Every kind comes with the same block sizes.
        full: the loss without quantisation.

    Raises:
        ValueError: no losses, an unknown kind, or a kind without some block size.
    """
    if not losses:
        raise ValueError("bits_explorer needs at least one loss: losses is empty")
    sizes = sorted({block for _, block in losses})
    kinds = [kind for kind in KINDS if (kind, sizes[0]) in losses]
    if losses.keys() != {(kind, block) for kind in kinds for block in sizes}:
        raise ValueError("every kind must have a loss for the same block sizes, and be one of " + ", ".join(KINDS))
    # All that a move shows is computed here.
    weight = weight.detach().float()
    counts, errors, bits = {}, {}, {}
    for block in sizes:
        groups = in_groups(weight.reshape(-1), block)
        largest = groups.abs().amax(1, keepdim=True)
        counts[block] = histogram((groups / largest.clamp(min=1e-38)).view(-1)[: weight.numel()])
        grids = {kind: GRIDS[kind](weight, block) for kind in kinds}
        bits[block] = {kind: grid.bits_per_parameter for kind, grid in grids.items()}
        errors[block] = {kind: float((g.dequantise() - weight).norm() / weight.norm()) for kind, g in grids.items()}
    places = {kind: levels(kind) for kind in kinds}

    def draw(figure: Figure, kind: str, block: int) -> str:
        told = {k: losses[k, block] for k in kinds}
        return draw_bits(figure, counts[block], places[kind], kind, block, errors[block], bits[block], told, full)

    return Panel(
        draw,
        question="How few bits can a weight have, and where should its levels lie?",
        look_for=(
            "where the levels are dense and where the weights are. Then make the blocks larger: the weights crowd "
            "around zero, and levels at equal distances suffer more than NF4's."
        ),
        size=(7.2, 5.2),
        kind=widgets.ToggleButtons(
            options=kinds,
            value="NF4" if "NF4" in kinds else kinds[-1],
            description="bits",
            style={"button_width": "60px"},
        ),
        block=widgets.SelectionSlider(
            options=sizes, value=64 if 64 in sizes else sizes[0], description="block size (weights per scale)"
        ),
    )


def example() -> Panel:
    """One on made-up weights and losses, for whoever times or tests every explorer."""
    weight = torch.randn(192, 576, generator=torch.Generator().manual_seed(0))
    told = {(kind, block): 0.2 + 0.3 * place for place, kind in enumerate(KINDS[::-1]) for block in (32, 64, 256, 4096)}
    return bits_explorer(weight, told, full=0.2)
