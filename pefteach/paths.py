"""Folders of the course, the base and the data: beside the package in a clone, inside it in an installed wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE if (PACKAGE / "course").exists() else PACKAGE.parent
DATA = ROOT / "data"
BASE = DATA / "base"
COURSE = ROOT / "course"
