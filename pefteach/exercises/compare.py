"""Compares two values, and says in words how they differ."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pefteach.exercises.worker import Module, Other

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""How far two right answers in float32 may differ. Right answers stay far below it and mistakes far above:
the tests measure both margins (see :func:`distance`)."""


def difference(expected: Any, got: Any, exact: bool = False) -> str | None:
    """How ``got`` differs, or None if it doesn't. The order is type, then shape, then values.

    Numbers and one-element tensors may stand for each other, and so may lists and tuples. Whole numbers are
    compared exactly; others by ``RELATIVE`` and ``ABSOLUTE``, unless ``exact``. NaN equals NaN.
    """
    if _is_number(expected) and _is_number(got):
        return _numbers(torch.as_tensor(expected), torch.as_tensor(got).reshape(()), exact)
    if isinstance(expected, Tensor) and isinstance(got, Tensor):
        return _shapes(expected, got) or _numbers(expected, got, exact)
    if isinstance(expected, list) and isinstance(got, list):
        return _lists(expected, got, exact)
    if isinstance(expected, dict) and isinstance(got, dict):
        return _dicts(expected, got, exact)
    if type(expected) is type(got):
        return None if expected == got else f"{show(got)} instead of {show(expected)}"
    if got is None:
        return f"None instead of {noun(expected)}"
    return f"{noun(got)} instead of {noun(expected)}"


def distance(expected: Any, got: Any) -> float:
    """The largest difference of the numbers in two values, in units of what is tolerated; inf if not comparable."""
    if _is_number(expected) and _is_number(got):
        return distance(torch.as_tensor(expected).reshape(1), torch.as_tensor(got).reshape(1))
    if isinstance(expected, Tensor) and isinstance(got, Tensor) and expected.shape == got.shape:
        if not expected.is_floating_point():
            return 0.0 if torch.equal(expected.double(), got.double()) else math.inf
        a, b = expected.double(), got.double()
        same = (a == b) | (a.isnan() & b.isnan())
        apart = torch.where(same, 0.0, (a - b).abs() / (ABSOLUTE + RELATIVE * a.abs()))
        return math.inf if apart.isnan().any() else float(apart.max()) if apart.numel() else 0.0
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        return max(map(distance, expected, got), default=0.0)
    if isinstance(expected, dict) and isinstance(got, dict) and expected.keys() == got.keys():
        return max((distance(expected[key], got[key]) for key in expected), default=0.0)
    return 0.0 if difference(expected, got) is None else math.inf


def show(value: Any) -> str:
    """Describes a value in a few words."""
    if isinstance(value, Tensor):
        first = ", ".join(f"{number:.4g}" for number in value.flatten()[:4].tolist())
        return f"tensor {tuple(value.shape)}: {first}{', …' if value.numel() > 4 else ''}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {show(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(show(v) for v in value[:6]) + (f", … {len(value)} in all]" if len(value) > 6 else "]")
    if isinstance(value, Module | Other):
        return noun(value)
    return "yes" if value is True else "no" if value is False else repr(value)


def noun(value: Any) -> str:
    """Names the type of a value in plain words, such as "a tensor"."""
    if isinstance(value, Other):
        return f"a {value.type_name}"
    named = {Tensor: "a tensor", bool: "True or False", int: "a number", float: "a number", str: "a text",
             list: "a list or tuple", dict: "a dict", Module: "a module"}  # fmt: skip
    return named.get(type(value), repr(value))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) or (isinstance(value, Tensor) and value.ndim == 0)


def _shapes(expected: Tensor, got: Tensor) -> str | None:
    want, have = tuple(expected.shape), tuple(got.shape)
    if want == have:
        return None
    same_sizes = " (the sizes are right, their order isn't)" if sorted(want) == sorted(have) else ""
    return f"shape {have} instead of {want}{same_sizes}"


def _numbers(expected: Tensor, got: Tensor, exact: bool) -> str | None:
    if got.is_complex():
        return "complex numbers instead of real ones"
    a, b = expected.double(), got.double()
    exact = exact or not expected.is_floating_point()
    tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": RELATIVE, "atol": ABSOLUTE}
    close = torch.isclose(b, a, **tolerance, equal_nan=True)
    if close.all():
        return None
    broken = int((~b.isfinite() & a.isfinite()).sum())
    if broken:
        return f"{broken} of {b.numel()} values are NaN or infinite"
    apart = (a - b).abs().nan_to_num(math.inf)
    place = torch.unravel_index(apart.argmax(), apart.shape)
    where = f" at {[int(i) for i in place]}" if place else ""
    text = f"largest difference {float(apart.max()):.4g}{where}: {float(b[place]):.6g} instead of {float(a[place]):.6g}"
    factor = float((a * b).sum() / (a * a).sum()) if a.any() else 0.0
    if factor and a.numel() > 1 and torch.allclose(b, factor * a, rtol=RELATIVE, atol=ABSOLUTE):
        text += f"; every value is {factor:.4g} times what it should be"
    return text


def _lists(expected: list, got: list, exact: bool) -> str | None:
    if all(isinstance(v, str) for v in [*expected, *got]):
        missing, extra = [v for v in expected if v not in got], [v for v in got if v not in expected]
        parts = [f"{word}: {show(names)}" for word, names in (("missing", missing), ("too many", extra)) if names]
        return "; ".join(parts) or (None if expected == got else "the right names in another order")
    if len(expected) != len(got):
        return f"{len(got)} values instead of {len(expected)}"
    found = ((i, difference(a, b, exact)) for i, (a, b) in enumerate(zip(expected, got)))
    return next((f"value {i}: {text}" for i, text in found if text), None)


def _dicts(expected: dict, got: dict, exact: bool) -> str | None:
    if expected.keys() != got.keys():
        return _lists(sorted(expected), sorted(got), exact)
    return next((f"{key}: {text}" for key in expected if (text := difference(expected[key], got[key], exact))), None)
