"""The tests of a file are found in one guess: ``tests/X/test_Y.py`` tests ``pefteach/X/Y.py``."""

from pathlib import Path

import pytest

from pefteach.paths import ROOT

TESTS, PACKAGE = ROOT / "tests", ROOT / "pefteach"
OF_NO_FILE = {"contract", "mutants", "browser"}  # folders that test no file more than another
OF_EVERY_LESSON = {f"lessons/test_{what}.py" for what in ("definitions", "exercises", "outputs", "writing")}
FILES = [path.relative_to(TESTS).as_posix() for path in sorted(TESTS.glob("*/**/test_*.py"))]


def named_by(name: str) -> list[Path]:
    """The files that a test may be of: ``X/Y.py``, the package ``X/Y``, or ``X`` itself where Y is its last name.

    Words may follow Y: ``test_run_on_a_gpu.py`` tests ``run.py`` too.
    """
    folder, words = Path(name).parent, Path(name).stem.split("_")[1:]
    names = ["_".join(words[:end]) for end in range(len(words), 0, -1)]
    found = [PACKAGE / folder / each for each in (*names, *(f"{each}.py" for each in names))]
    return [path for path in found if path.exists()] + [PACKAGE / folder] * (folder.name in names)


@pytest.mark.parametrize("name", FILES)
def test_a_test_says_what_it_tests(name):
    if name.partition("/")[0] not in OF_NO_FILE and name not in OF_EVERY_LESSON:
        assert named_by(name), f"tests/{name} names no file of pefteach/{Path(name).parent.as_posix()}"


def test_the_exceptions_are_there():
    assert OF_EVERY_LESSON < set(FILES) and all((TESTS / folder).is_dir() for folder in OF_NO_FILE)


@pytest.mark.parametrize("name", ["quant/test_wrong.py", "methods/test_run.py", "nowhere/test_lora.py"])
def test_a_name_of_nothing_is_noticed(name):
    assert not named_by(name)
