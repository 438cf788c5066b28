"""The pictures of lesson 7 show the numbers they are given."""

import numpy as np
import pytest
import torch

from pefteach.lessons.kit.style import new_figure, png
from pefteach.lessons.lora.figures import CORNER, draw_low_rank, draw_rank

CUT, LORA = {1: 0.1, 16: 0.9, 4: 0.5}, {16: 1.0, 1: 0.7, 4: 0.8}


@pytest.fixture
def drawn():
    """A wide ΔW (20, 30), some approximation of it, and singular values 4 and 3, at rank 1."""
    torch.manual_seed(0)
    delta, approximation = torch.randn(2, 20, 30)
    figure = new_figure()
    says = draw_rank(figure, delta, approximation, torch.tensor([4.0, 3.0]), 1, CUT, LORA, full=0.95)
    return delta, approximation, figure, says


def test_the_thin_matrices_are_drawn_to_scale():
    """Catches A and B exchanged, and (in, out) for (out, in)."""
    figure = new_figure()
    says = draw_low_rank(figure, fan_in=192, fan_out=64, rank=8)
    sides = [(p.get_width(), p.get_height()) for p in figure.axes[0].patches]
    assert sides == [(192, 64), (8, 64), (192, 8)]  # W0, B, A
    assert "12,288" in says and "2,048" in says
    assert {"B (64, 8)", "A (8, 192)"} < {t.get_text() for t in figure.axes[0].texts}
    assert png(figure)


def test_the_maps_are_the_change_its_approximation_and_what_is_left(drawn):
    delta, approximation, figure, _ = drawn
    (image,) = figure.axes[0].images
    shown = np.ma.filled(image.get_array(), np.nan)
    for i, expected in enumerate((delta, approximation, delta - approximation)):
        left = i * (30 + 3)  # a gap of an eighth of the width
        assert np.allclose(shown[:, left : left + 30], expected.numpy())
    assert image.norm.vmin == -image.norm.vmax < 0  # zero has the colour in the middle


def test_a_large_matrix_shows_its_corner():
    delta = torch.arange(100.0 * 200).reshape(100, 200)
    figure = new_figure()
    draw_rank(figure, delta, delta, torch.ones(3), 1, CUT, LORA, full=1.0)
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (CORNER, 3 * CORNER + 2 * (CORNER // 8))
    assert np.array_equal(shown[:, :CORNER], delta[:CORNER, :CORNER])


def test_the_caption_says_energy_in_squares_and_names_each_accuracy(drawn):
    """4² of 4² + 3² is 64 %; shares of the plain values would say 57 %."""
    says = drawn[3]
    assert "Rank 1 of 2 holds 64%" in says
    assert "full fine-tune 0.95" in says and "rank 1 0.10" in says and says.endswith("LoRA of rank 1 0.70.")


def test_the_spectrum_marks_exactly_the_kept_directions(drawn):
    everything, kept = (part.get_data().values.tolist() for part in drawn[2].axes[1].patches)
    assert everything == [4, 3] and kept == [4]


def test_the_curves_are_in_the_order_of_rank_and_not_exchanged(drawn):
    axes = drawn[2].axes[2]
    curves = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert curves["its ΔW, cut"] == [0.1, 0.5, 0.9] and curves["LoRA"] == [0.7, 0.8, 1.0]
    assert curves["full fine-tune"] == [0.95, 0.95]
    assert [t.get_text() for t in axes.texts[:3]] == ["1", "4", "16"]
    assert [t.get_position()[0] for t in axes.texts[:3]] == list(axes.lines[-1].get_xdata()) == [0, 1, 2]
    band = next(line for line in axes.lines if line.get_linewidth() == 8)
    assert band.get_xdata()[0] == 0  # it stands at the first of the three ranks
