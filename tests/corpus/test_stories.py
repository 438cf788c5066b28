"""The stories: enough of them, all different, all labelled, all whole."""

import re
from collections import Counter

import pytest

from pefteach.corpus.stories import CHOICE, ENDINGS, MOODS, MORALS, SLOT, characters, plots, stories, tell

KINDS = {kind for pool in characters().values() for _, kind, _ in pool}
EVERY_PLOT = [*plots("train"), *plots("heldout")]


def test_there_are_enough_plots_and_a_tenth_is_held_out():
    assert len(EVERY_PLOT) >= 120
    assert 0.09 <= len(plots("heldout")) / len(EVERY_PLOT) <= 0.12
    assert len({p.name for p in EVERY_PLOT}) == len({p.title for p in EVERY_PLOT}) == len(EVERY_PLOT)


@pytest.mark.parametrize("plot", EVERY_PLOT, ids=lambda p: p.name)
def test_every_plot_is_well_formed(plot):
    assert plot.mood in MOODS and plot.ending in ENDINGS and plot.moral in MORALS
    assert set(plot.cast.values()) <= characters().keys()
    assert len(plot.story) >= 6 and all(len(set(p)) == len(p) >= 2 for p in plot.story)
    for seed in range(20):
        story = tell(plot, seed)
        assert not set("{}[]|") & set(story.text) and "a(n)" not in story.text and "  " not in story.text
        assert 50 <= len(story.text.split()) <= 140 and story.text[-1] in '.!?"'
        assert story.who in KINDS and story.where in plot.where and story.nats > 10


def test_a_thousand_words_and_a_half_and_hardly_a_duplicate():
    words, texts = Counter(), set()
    count = 20_000
    for story in stories(count):
        words.update(re.findall(r"[a-z']+", story.text.lower()))
        texts.add(story.text)
    assert len(words) >= 1500
    # Twins grow with the square of the count: five times the stories have at most 25 times the twins.
    assert 25 * (count - len(texts)) < 0.01 * 5 * count


def test_the_same_seed_tells_the_same_story():
    plot = plots()[0]
    assert tell(plot, 3) == tell(plot, 3) and tell(plot, 3).text != tell(plot, 4).text
    assert [s.text for s in stories(5, seed=2)] == [s.text for s in stories(5, seed=2)]


def test_every_plot_comes_once_a_round():
    told = [s.plot for s in stories(2 * len(plots()))]
    half = len(plots())
    assert sorted(told[:half]) == sorted(told[half:]) == sorted(p.name for p in plots()) and told[:half] != told[half:]


def test_nats_count_every_choice():
    plot = plots()[0]
    seen = {tell(plot, seed).text for seed in range(300)}
    assert len(seen) == 300, "a plot with over ten nats repeats itself within 300 tellings"
    for plot in EVERY_PLOT:
        for passage in plot.story:
            for wording in passage:
                assert all("|" in choice for choice in CHOICE.findall(wording)), (
                    f"{plot.name}: a choice of one: {wording}"
                )
                assert set(SLOT.findall(wording)) <= _slots(plot), f"{plot.name}: unknown slot in {wording}"


def _slots(plot):
    cases = ["", ".kind", ".he", ".him", ".his", ".He", ".Him", ".His"]
    return {role + case for role in plot.cast for case in cases} | {"where"} | plot.words.keys()


def test_no_plots_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no story plots in"):
        plots("train", tmp_path)
