"""What a mutant is: one piece of the package, written wrong in one way that people write it wrong."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pefteach.methods import Method
from pefteach.quant import codebooks, four_bit

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """A wrong implementation.

    Attributes:
        wrong: what is wrong with it, in a few words.
        of: what it is a wrong version of: a method, by its key in ``pefteach.workshop.parity.cases.CASES``, or a piece
            of the quantisation, in words. Parity and the contract look for wrong versions of a method.
        patch: makes the package wrong; pytest undoes it.
        family: the model that a wrong method is looked for on.
        checks: tests of this piece alone that look for it, too.
    """

    wrong: str
    of: str
    patch: Patch
    family: str = "llama"
    checks: tuple[Callable[[], None], ...] = ()

    def __str__(self) -> str:
        return f"{self.of}: {self.wrong}"

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The package is wrong inside, and right again afterwards."""
        with pytest.MonkeyPatch.context() as monkeypatch:
            self.patch(monkeypatch)
            forget()
            yield
        forget()


def forget() -> None:
    """Empty the caches of the package, so that a wrong piece is seen, and does not outlive its mutant."""
    for cached in (codebooks.codebook, codebooks.boundaries, four_bit._byte_table):
        cached.cache_clear()


def on(test: Callable, **arguments: object) -> Callable[[], None]:
    """A test with its arguments filled in, and with the fixtures ``tmp_path`` and ``monkeypatch`` if it asks."""

    def check():
        wants = inspect.signature(test).parameters
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
            fixtures = {"tmp_path": Path(folder), "monkeypatch": monkeypatch}
            test(**arguments, **{name: value for name, value in fixtures.items() if name in wants})

    check.__name__ = test.__name__
    return check


def in_half_precision(method: type[Method]) -> Patch:
    """Keep the method's tensors in the precision of the base: in 16 bits most steps of AdamW are rounded away."""

    def patch_build(patch):
        right = method.build

        def build(self, model, name):
            adapter = right(self, model, name)
            for part in adapter.parts.values():
                part.to(next(model.parameters()).dtype)
            return adapter

        patch.setattr(method, "build", build)

    return patch_build
