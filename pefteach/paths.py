"""Where the course, the base and the data are: beside the package in a clone, inside it if it came as a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE if (PACKAGE / "course").exists() else PACKAGE.parent
DATA = ROOT / "data"
BASE = DATA / "base"
COURSE = ROOT / "course"
