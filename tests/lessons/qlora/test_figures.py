"""The pictures of lesson 9 show the numbers they are given."""

import numpy as np
import pytest
import torch

from pefteach.lessons.kit.style import new_figure, png
from pefteach.lessons.qlora.figures import BINS, MOST_LOSS, draw_bits, draw_levels, draw_qlora, histogram

ERRORS = {"3 bit": 0.25, "NF4": 0.092, "8 bit": 0.006}
BITS = {"3 bit": 3.5, "NF4": 4.5, "8 bit": 8.5}
LOSSES = {"3 bit": 2.5, "NF4": 0.26, "8 bit": 0.241}
LEVELS = torch.tensor([-1.0, -0.3, 0.0, 0.5, 1.0])


@pytest.fixture
def drawn():
    figure, counts = new_figure(7.2, 5.2), torch.arange(1.0, 9.0)
    return figure, draw_bits(figure, counts, LEVELS, "NF4", 64, ERRORS, BITS, LOSSES, full=0.24)


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_a_histogram_counts_every_value_from_end_to_end():
    """Catches limits taken from the data, and the largest value left out."""
    counts = histogram(torch.tensor([-1.0, 0.01, 0.02, 1.0]))
    assert counts.shape == (BINS,) and counts.sum() == 4
    assert counts[0] == counts[-1] == 1 and counts[BINS // 2] == 2


def test_every_weight_goes_to_its_nearest_level():
    """0.3 lies between 0 and 0.5 and goes up; a level below each weight would say 0."""
    block, figure = torch.tensor([0.3, 0.2, -1.0, -0.2]), new_figure()
    says = draw_levels(figure, block, torch.cat([block, block]), LEVELS)
    weights, moved = (line.get_ydata().tolist() for line in figure.axes[0].lines)
    assert np.allclose(weights, [0.3, 0.2, -1.0, -0.2]) and np.allclose(moved, [0.5, 0.0, -1.0, -0.3])
    assert sum(bar.get_width() for bar in figure.axes[1].patches) == 8
    assert says.startswith("4 weights of one block") and "5 levels" in says and png(figure)


def test_the_two_paths_carry_their_shapes():
    """Catches A and B exchanged, and (in, out) for (out, in)."""
    figure = new_figure(7.2, 3.2)
    says = draw_qlora(figure, fan_in=192, fan_out=64, rank=8)
    labels = " ".join(texts(figure.axes[0]))
    assert "A (8, 192)" in labels and "B (64, 8)" in labels and "W (64, 192)" in labels
    assert "A, 8 by 192, and B, 64 by 8" in says and png(figure)


def test_the_codes_are_drawn_a_quarter_as_wide_as_the_weight():
    figure = new_figure(7.2, 3.2)
    draw_qlora(figure, 192, 64, 8)
    codes, weight = figure.axes[0].patches[:2]
    assert weight.get_width() == 4 * codes.get_width() and weight.get_height() == codes.get_height()


def test_the_levels_stand_where_they_are_over_the_weights(drawn):
    axes = drawn[0].axes[0]
    lines = next(part for part in axes.collections if part.get_label() == "levels")
    assert np.allclose([segment[0, 0] for segment in lines.get_segments()], LEVELS.numpy())
    steps = axes.artists[0] if axes.artists else next(p for p in axes.patches if hasattr(p, "get_data"))
    assert np.allclose(steps.get_data().values, torch.arange(1.0, 9.0) / 8)
    assert np.allclose(steps.get_data().edges, np.linspace(-1, 1, 9))


def test_the_bars_are_errors_and_losses_in_the_order_of_kinds(drawn):
    errors, losses = drawn[0].axes[1:]
    heights = lambda axes: [bar.get_height() for bar in axes.patches]
    assert np.allclose(heights(errors), [25, 9.2, 0.6]) and np.allclose(heights(losses), [MOST_LOSS, 0.26, 0.241])
    assert {"3 bit", "25", "9.2", "0.6"} < set(texts(errors))
    assert {"↑ 2.5", "0.26", "0.241", "0.24"} < set(texts(losses))  # what leaves the axis says so


def test_only_the_chosen_kind_is_strong(drawn):
    for axes in drawn[0].axes[1:]:
        assert [bar.get_alpha() for bar in axes.patches] == [0.45, 1.0, 0.45]


def test_the_caption_names_the_chosen_kinds_numbers(drawn):
    assert drawn[1].startswith("NF4 in blocks of 64: 4.50 bits per weight, 5 levels, error 9.2% of the weight.")
    assert drawn[1].endswith("0.260 nats per token, against 0.240 in 32 bits.")
