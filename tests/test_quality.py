"""Lint, layout and types."""

import subprocess
import sys
from pathlib import Path

from pefteach.paths import ROOT


def green(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff():
    green("ruff", "check", ".")
    green("ruff", "format", "--check", ".")


def test_types():
    green("mypy")


def test_arrows_between_rooms_point_one_way():
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_repository_stays_light():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sizes = {name: (ROOT / name).stat().st_size for name in listed.split("\0") if name and (ROOT / name).exists()}
    assert not [n for n, size in sizes.items() if n.endswith(".ipynb") and size > 500_000]
    assert sum(sizes.values()) < 40e6
