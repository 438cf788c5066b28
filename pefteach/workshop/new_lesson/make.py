"""Makes a lesson to start from: it builds, and only its text has to be replaced."""

from __future__ import annotations

import ast
import keyword
import re
import shutil
from pathlib import Path

from pefteach.lessons import catalogue
from pefteach.workshop.clone import need_clone

TEMPLATE = Path(__file__).parent / "template"
LONGEST = 30  # characters of a name; longer ones would break lines of the template

ROW = """\
    Lesson(
        {number},
        "{name}",
        title="{title}",
        minutes=45,
        holds="TODO: what it teaches, in one line",
    ),
"""


def make_lesson(number: int, name: str) -> Path:
    """Make ``pefteach/lessons/<name>`` from the template, and add its row to the catalogue.

    Returns:
        The new folder.

    Raises:
        ValueError: the number or the name is taken or not allowed, or this is no clone of the repository. Then
            nothing is written.
    """
    need_clone("new-lesson")
    check_number(number)
    check_name(name)
    title = name.replace("_", " ").capitalize()
    listed, folder = Path(catalogue.__file__), Path(catalogue.__file__).parent / name
    rows = with_row(listed.read_text(encoding="utf-8"), number, ROW.format(number=number, name=name, title=title))
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in folder.rglob("*.py"):
        text = filled_in(file.read_text(encoding="utf-8"), number, name, title)
        file.write_text(text, encoding="utf-8")
    listed.write_text(rows, encoding="utf-8")
    return folder


def check_number(number: int) -> None:
    """Raise unless a new lesson may have this number."""
    taken = {lesson.number: lesson.name for lesson in catalogue.LESSONS}
    if not 1 <= number <= 99:
        raise ValueError(f"a lesson's number is from 1 to 99, not {number}")
    if number in taken:
        raise ValueError(f"{taken[number]} has the number {number} already; choose another")


def check_name(name: str) -> None:
    """Raise unless a new lesson may have this name."""
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or len(name) > LONGEST:
        raise ValueError(
            f"{name!r} can't name a lesson: take up to {LONGEST} small letters, digits and _, such as soft_prompts"
        )
    if name in (path.stem for path in Path(catalogue.__file__).parent.iterdir()):
        raise ValueError(f"pefteach/lessons has {name!r} already; choose another name")


def filled_in(text: str, number: int, name: str, title: str) -> str:
    """A file of the template with the new lesson's number, name and title; its imports stay in order."""
    for old, new in {
        "pefteach.workshop.new_lesson.template": f"pefteach.lessons.{name}",
        "template_step": f"{name}_step",
        "00_template": f"{number:02}_{name}",
        "0. Template": f"{number}. {title}",
    }.items():
        text = text.replace(old, new)
    in_order = lambda lines: "".join(sorted(lines[0].splitlines(keepends=True)))
    return re.sub(r"(?:^from pefteach.*\n)+", in_order, text, flags=re.M)


def with_row(source: str, number: int, new: str) -> str:
    """The catalogue's source with one more row, at the place that its number gives it."""
    rows: list[ast.Call] = next(
        node.value.elts  # type: ignore[attr-defined]
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LESSONS"
    )
    before = [row.end_lineno for row in rows if ast.literal_eval(row.args[0]) < number]
    line = before[-1] if before else rows[0].lineno - 1
    lines = source.splitlines(keepends=True)
    return "".join([*lines[:line], new, *lines[line:]])
