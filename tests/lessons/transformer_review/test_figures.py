"""The pictures of lesson 1 show the numbers they are given."""

import pytest
import torch

from pefteach.lessons.kit.style import new_figure, png
from pefteach.lessons.transformer_review.figures import (
    ablation_figure,
    decoder_figure,
    draw_attention_map,
    draw_message,
    softness_figure,
    steps_figure,
)


def texts(figure) -> list[str]:
    return [t.get_text() for part in (figure, *figure.axes) for t in part.texts]


def test_the_map_holds_the_weights_and_names_where_the_last_token_looks():
    weights = torch.tensor([[1.0, 0, 0], [0.3, 0.7, 0], [0.1, 0.65, 0.25]])
    figure = new_figure()
    says = draw_attention_map(figure, weights, ["cat", r"$\frac{$", "on"])
    drawn = figure.axes[0].images[0].get_array()
    assert says == "The last token, 'on', looks most at '$\\frac{$' (weight 0.65)."
    assert drawn[2, 1] == pytest.approx(0.65)  # a transposed picture has 0 here
    assert drawn.mask[0].tolist() == [False, True, True]  # what is ahead is blank, not merely dark
    assert png(figure)  # drawn as text: as a formula it would raise


def test_every_token_is_named_on_both_sides():
    figure = new_figure()
    draw_attention_map(figure, torch.eye(4), ["a", "b", "c", "d"])
    assert all(texts(figure).count(token) == 2 for token in "abcd")


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"2 labels do not fit attention weights of shape \(3, 3\)"):
        draw_attention_map(new_figure(), torch.eye(3), ["a", "b"])


def test_a_message_is_drawn_and_returned():
    figure = new_figure()
    assert draw_message(figure, "nothing to draw") == "nothing to draw"
    assert texts(figure) == ["nothing to draw"]
    assert png(figure) != png(new_figure())


def test_steps_leave_minus_infinity_blank():
    scores = torch.arange(6.0).view(2, 3)
    masked = scores.masked_fill(torch.tensor([[False, True, True], [False, False, True]]), -torch.inf)
    figure = steps_figure({"scores": scores, "masked": masked})
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.get_xlabel() == "key"]
    assert drawn[0].tolist() == scores.tolist()
    assert [axes.get_title("left") for axes in figure.axes][:2] == ["scores", "masked"]
    assert drawn[1].mask.tolist() == [[False, True, True], [False, False, True]]


def test_the_decoder_says_its_own_sizes():
    words = " ".join(texts(decoder_figure(layers=7, width=320)))
    assert "7 times" in words and "320 numbers" in words


def test_bars_and_lines_are_as_long_as_their_numbers():
    left, right = ablation_figure(["whole", "broken"], [1.0, 0.25], [2.0, 5.0]).axes
    assert [bar.get_width() for bar in left.patches] == [1.0, 0.25]
    assert [bar.get_width() for bar in right.patches] == [2.0, 5.0]
    assert left.yaxis_inverted()  # the first name on top
    entropy, slope = softness_figure([16, 64], {"unscaled": ([2.0, 1.0], [0.3, 0.1])}).axes
    assert entropy.lines[0].get_ydata().tolist() == [2.0, 1.0]
    assert slope.lines[0].get_ydata().tolist() == [0.3, 0.1]
