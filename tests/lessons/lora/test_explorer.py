"""The explorer of lesson 7, driven without a browser: move a control, look at the picture and the caption."""

import io

import pytest
import torch
from matplotlib import image

from pefteach.lessons.lora import explorer as module
from pefteach.lessons.lora.explorer import rank_explorer

CUT, LORA = {8: 0.6, 1: 0.1, 2: 0.3, 4: 0.5}, {1: 0.7, 2: 0.8, 4: 0.9, 8: 1.0}


@pytest.fixture
def deltas():
    torch.manual_seed(0)
    return {"q_proj": torch.randn(48, 80), "down_proj": torch.nn.Parameter(torch.randn(80, 20))}


@pytest.fixture
def panel(deltas):
    return rank_explorer(deltas, CUT, LORA, full=0.95)


def shades(panel) -> int:
    """How many different colours the picture holds; a blank sheet has one."""
    return len({tuple(pixel) for pixel in image.imread(io.BytesIO(panel.image.value)).reshape(-1, 4).tolist()})


@pytest.mark.parametrize("name, value", [("rank", 1), ("rank", 8), ("matrix", "down_proj")])
def test_every_control_changes_the_picture_and_the_caption(panel, name, value):
    picture, says = panel.image.value, panel.says
    panel.controls[name].value = value
    assert panel.image.value != picture and panel.says != says
    assert panel.image.alt == panel.says
    assert shades(panel) > 100


def test_the_slider_moves_over_the_ranks_in_order(panel):
    assert list(panel.controls["rank"].options) == [1, 2, 4, 8]


@pytest.mark.parametrize("matrix", ["q_proj", "down_proj"])
def test_the_approximation_is_the_best_of_its_rank(deltas, monkeypatch, matrix):
    """Catches the smallest values kept instead of the largest, one too many, and a product without them."""
    seen = {}

    def draw(figure, delta, approximation, singular, rank, *rest):
        seen.update(delta=delta, approximation=approximation, rank=rank, rest=rest)
        return "drawn"

    monkeypatch.setattr(module, "draw_rank", draw)
    panel = rank_explorer(deltas, CUT, LORA, full=0.95)
    panel.controls["matrix"].value, panel.controls["rank"].value = matrix, 2
    assert seen["rank"] == torch.linalg.matrix_rank(seen["approximation"]) == 2
    error = torch.linalg.matrix_norm(deltas[matrix].detach() - seen["approximation"])
    least = torch.linalg.svdvals(deltas[matrix].detach())[2:].norm()  # Eckart & Young
    assert torch.isclose(error, least, rtol=1e-4)
    assert seen["rest"] == (CUT, LORA, 0.95)


def test_it_needs_a_matrix():
    with pytest.raises(ValueError, match="deltas is empty"):
        rank_explorer({}, CUT, LORA, full=1.0)


@pytest.mark.parametrize("cut, lora", [({}, {}), ({1: 0.1}, {1: 0.1, 2: 0.2})])
def test_it_needs_the_same_ranks_on_both_sides(deltas, cut, lora):
    with pytest.raises(ValueError, match="the same ranks"):
        rank_explorer(deltas, cut, lora, full=1.0)
