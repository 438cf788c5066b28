"""The names that the package and each of its rooms show."""

import subprocess
import sys
from importlib import import_module

import pytest

import pefteach
from pefteach.methods import METHODS


def test_every_name_leads_to_what_its_room_shows():
    for room, names in pefteach.ROOMS.items():
        shown = import_module(f"pefteach.{room}")
        for name in names:
            assert name in shown.__all__ and getattr(pefteach, name) is getattr(shown, name)


def test_every_method_is_among_them():
    assert all(getattr(pefteach, method.__name__) is method for method in METHODS)


def test_another_name_is_refused_as_python_does():
    for name in ("Lora", "fits", "_private"):
        with pytest.raises(AttributeError, match=f"pefteach has no '{name}'"):
            getattr(pefteach, name)
    with pytest.raises(ImportError):
        from pefteach import Lora  # noqa: F401


def test_the_import_alone_loads_nothing_heavy():
    code = "import sys, pefteach; print([name for name in ('torch', 'numpy', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "room",
    ["corpus", "exercises", "interop", "lessons", "measure", "memory", "methods", "model", "quant",
     "training"],
)  # fmt: skip
def test_every_room_shows_names_and_says_what_it_is_for(room):
    shown = import_module(f"pefteach.{room}")
    assert shown.__doc__ and shown.__all__
    assert all(hasattr(shown, name) for name in shown.__all__)
