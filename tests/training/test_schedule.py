"""The learning rate over the steps."""

from itertools import pairwise

import pytest

from pefteach.training.schedule import learning_rate


@pytest.mark.parametrize("schedule, last", [("constant", 1.0), ("linear", 0.1), ("cosine", 0.1)])
def test_schedules(schedule, last):
    rate = [learning_rate(s, 100, 2.0, schedule, 0.1) for s in range(101)]
    assert rate[0] == pytest.approx(0.2) and rate[9] == rate[10] == 2.0 and rate[100] == pytest.approx(2.0 * last)
    assert all(a >= b for a, b in pairwise(rate[10:]))
