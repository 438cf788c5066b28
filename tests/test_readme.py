"""What the README promises is there."""

import re

from pefteach.paths import COURSE, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_link_leads_somewhere():
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", README) if "://" not in t]
    assert targets and not [t for t in targets if not (ROOT / t).exists()]


def test_every_lesson_is_in_the_table():
    listed = set(re.findall(r"course/(\d\d_\w+)\.ipynb", README))
    assert listed == {p.stem for p in COURSE.glob("[0-9]*.ipynb")}


def test_continuous_integration_runs_the_test_command():
    test_command = re.search(r"^## Test it.*?^```sh\n(.*?)^```", README, re.M | re.S)
    assert test_command and "pytest" in test_command[1] and test_command[1].count("\n") == 1
    assert "^## Test it" in (ROOT / ".ci" / "run").read_text()
