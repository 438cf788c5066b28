"""What counts as the same value, and how a difference is told."""

import math

import pytest
import torch

from pefteach.exercises.compare import difference, distance, show

T = torch.tensor


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1.0, 1.0 + 1e-6),
        (3, T(3)),
        (T(2.5), 2.5),
        (T([1.0, math.nan]), T([1.0, math.nan])),
        ([1, 2], [1, 2.0]),
        ({"a": T([1.0])}, {"a": T([1.0])}),
        (T([1.0]), T([1.0], dtype=torch.float64)),
        (T([]), T([])),
        (True, True),
        (None, None),
    ],
)
def test_the_same(a, b):
    assert difference(a, b) is None and distance(a, b) < 1


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (1000, 1001, "1001 instead of 1000"),
        (1000, 1000.4, "instead"),
        (T([1000]), T([1001]), "1001 instead of 1000"),
        (1.0, 1.001, "1.001 instead of 1"),
        (T([1.0, 2.0]), T([1.0, 2.1]), "at [1]: 2.1 instead of 2"),
        (T([1.0, 2.0]), T([2.0, 4.0]), "every value is 2 times"),
        (T([1.0, 2.0]), T([1.0, math.inf]), "1 of 2 values are NaN or infinite"),
        (T([[1.0], [2.0]]), T([[1.0, 2.0]]), "order isn't"),
        (T([1.0]), T([1.0, 1.0]), "shape (2,) instead of (1,)"),
        (T([1.0]), None, "None instead of a tensor"),
        (2.0, "2", "a text instead of a number"),
        (True, False, "no instead of yes"),
        ([1, 2], [1], "1 values instead of 2"),
        ([1, 2], [1, 3], "value 1"),
        (["a", "b"], ["a", "c"], "missing: ['b']; too many: ['c']"),
        (["a", "b"], ["b", "a"], "another order"),
        ({"a": 1}, {"b": 1}, "missing: ['a']"),
        ({"a": 1}, {"a": 2}, "a: "),
        (T([1.0]), [1.0], "a list or tuple instead of a tensor"),
    ],
)
def test_different(a, b, says):
    assert says in difference(a, b)
    assert distance(a, b) > 1


def test_exact_means_every_bit():
    assert difference(T([1.0]), T([1.0 + 2e-7]), exact=True) and difference(T([1.0]), T([1.0 + 2e-7])) is None


def test_long_values_are_shown_in_few_words():
    assert len(show(torch.ones(100, 100))) < 80 and "(100, 100)" in show(torch.ones(100, 100))
    assert len(show([f"name{i}" for i in range(1000)])) < 120
