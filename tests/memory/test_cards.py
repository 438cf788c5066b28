"""One table of graphics cards, and what fits on them."""

import pytest

from pefteach.memory.cards import GB, fitting_cards, smallest_card


@pytest.mark.parametrize(("total", "card"), [(1, 8), (8 * GB, 8), (8 * GB + 1, 12), (80 * GB, 80), (80 * GB + 1, None)])
def test_the_smallest_card(total, card):
    assert smallest_card(total) == card


def test_what_fits():
    assert fitting_cards(16 * GB) == {8: False, 12: False, 16: True, 24: True, 48: True, 80: True}
