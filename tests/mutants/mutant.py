"""What a mutant is: one technique, written wrong in one way that people write it wrong."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Mutant:
    """A wrong implementation.

    Attributes:
        wrong: what is wrong with it, in a few words.
        case: the method it is a wrong version of, a key of ``pefteach.workshop.parity.cases.CASES``.
        patch: makes the package wrong; pytest undoes it.
        family: the model it is looked for on.
        checks: tests of this technique alone that look for it too, besides parity and the contract.
    """

    wrong: str
    case: str
    patch: Callable[[pytest.MonkeyPatch], None]
    family: str = "llama"
    checks: tuple[Callable[[], None], ...] = ()


def on(test: Callable, **arguments: object) -> Callable[[], None]:
    """A test with its arguments filled in, and a folder of its own if it asks for one."""

    def check():
        with tempfile.TemporaryDirectory() as folder:
            wants = inspect.signature(test).parameters
            test(**arguments, **({"tmp_path": Path(folder)} if "tmp_path" in wants else {}))

    check.__name__ = test.__name__
    return check
