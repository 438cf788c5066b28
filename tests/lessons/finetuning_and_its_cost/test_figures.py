"""The pictures of lesson 2 show the numbers they are given."""

import pytest

from pefteach.lessons.finetuning_and_its_cost.figures import (
    PHASES,
    draw_costs,
    draw_forgetting,
    draw_memory,
)
from pefteach.lessons.kit.style import new_figure
from pefteach.measure.forgetting import Knowledge
from pefteach.memory import CARDS, Bytes

GB = 10**9
PLANS = {"full": Bytes(14 * GB, 14 * GB, 28 * GB, 4 * GB), "lora": Bytes(14 * GB, GB, 2 * GB, 3 * GB)}


def drawn(axes, label: str):
    (lines,) = (part for part in axes.collections if part.get_label() == label)
    return lines


def bars(axes) -> dict[str, list[tuple[float, float]]]:
    """Where the bars begin and end, by phase, in the order of the plans."""
    return {
        phase: [
            (float(x.min()), float(x.max())) for x in (path.vertices[:, 0] for path in drawn(axes, phase).get_paths())
        ]
        for phase in PHASES
    }


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_bars_are_as_long_as_the_bytes_and_stand_end_to_end():
    figure = new_figure()
    draw_memory(figure, PLANS, "lora")
    (axes,) = figure.axes
    assert bars(axes) == {
        "weights": [(0, 14), (0, 14)],
        "gradients": [(14, 28), (14, 15)],
        "optimizer": [(28, 56), (15, 17)],
        "activations": [(56, 60), (17, 20)],
    }
    assert {"full", "lora", "60", "20"} < set(texts(axes))
    assert axes.yaxis_inverted()  # the first plan on top, at row 0


def test_the_chosen_bar_stands_out_by_more_than_colour():
    figure = new_figure()
    draw_memory(figure, PLANS, "lora")
    strong = [text.get_text() for text in figure.axes[0].texts if text.get_fontweight() == "bold"]
    assert strong == ["20"]
    assert drawn(figure.axes[0], "weights").get_facecolors()[:, 3].tolist() == [0.45, 1.0]


def test_cards_are_marked_where_the_axis_reaches_them():
    figure = new_figure()
    draw_memory(figure, PLANS, "full")
    (axes,) = figure.axes
    assert [segment[0][0] for segment in drawn(axes, "cards").get_segments()] == [
        card for card in CARDS if card < 60 * 1.15
    ]
    assert "48" in texts(axes) and "80" not in texts(axes)


def test_a_small_model_is_drawn_in_megabytes_and_without_cards():
    figure = new_figure()
    says = draw_memory(figure, {"tiny": Bytes(8 * 10**6, 0, 0, 10**6)}, "tiny")
    assert "together 9 MB" in says and not drawn(figure.axes[0], "cards").get_segments()
    assert any(text.startswith("MB at the end") for text in texts(figure.axes[0]))


def test_the_sentence_says_the_phases_and_the_card():
    assert draw_memory(new_figure(), PLANS, "lora") == (
        "lora: weights 14, gradients 1, optimizer 2, activations 3; together 20 GB, "
        "and the smallest card that holds it has 24 GB."
    )
    huge = {"huge": Bytes(700 * GB, 700 * GB, 1400 * GB, 0)}
    assert "together 2,800 GB, and no card of 80 GB holds it" in draw_memory(new_figure(), huge, "huge")


def test_an_unknown_plan_cannot_be_chosen():
    with pytest.raises(KeyError):
        draw_memory(new_figure(), PLANS, "none")


def test_costs_are_drawn_in_per_cent():
    figure = new_figure()
    says = draw_costs(figure, {"full": (1.0, 1.0, 1.0), "BitFit": (0.0035, 0.68, 0.66)})
    widths = [[bar.get_width() for bar in axes.containers[0]] for axes in figure.axes]
    assert widths == [[100, pytest.approx(0.35)], [100, pytest.approx(68)], [100, pytest.approx(66)]]
    assert "BitFit 0.35, 68, 66" in says and "full 100, 100, 100" in says


def test_forgetting_shows_the_mean_and_every_seed():
    runs = {
        "base": [Knowledge({"copy": 1.0, "swap": 0.5}, 2.0)],
        "full": [Knowledge({"copy": 0.5, "swap": 0.0}, 5.0), Knowledge({"copy": 0.0, "swap": 0.0}, 7.0)],
    }
    figure = new_figure()
    says = draw_forgetting(figure, runs)
    skills, stories = figure.axes
    assert [bar.get_width() for bar in skills.containers[0]] == [0.75, 0.125]
    assert [bar.get_width() for bar in stories.containers[0]] == [2, 6]
    assert [list(line.get_xdata()) for line in skills.lines] == [[0.75], [0.25, 0.0]]
    assert "base 0.75, full 0.12" in says and "base 2.00, full 6.00" in says
