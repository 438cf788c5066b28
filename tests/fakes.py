"""Stand-ins for packages that are missing or broken, for the processes that a test starts."""

from pathlib import Path

import pytest

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def block(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> None:
    """New Python processes cannot import these packages, whether or not they are installed."""
    (folder / "sitecustomize.py").write_text(BLOCK.format(names=set(names)))
    monkeypatch.setenv("PYTHONPATH", str(folder))


def replace(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, code: str) -> None:
    """New Python processes that import this package run ``code`` in its place."""
    (folder / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
