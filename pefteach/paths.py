"""Where the files that ship with the repository are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
BASE = DATA / "base"
COURSE = ROOT / "course"
