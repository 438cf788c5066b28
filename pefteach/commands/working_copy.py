"""The learner's copy of the course: new notebooks are added, untouched ones renewed, edited ones never written over.

A notebook is untouched while it has the cells and outputs that it was laid with. What JupyterLab writes into the
metadata when it saves does not count: opening a notebook does not make it an edited one, running it does. The index,
which every learner runs to see the progress, is untouched while its cells are.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import nbformat
from nbformat import NotebookNode

INDEX = "index.ipynb"
HIDDEN = ".pefteach-course"  # a folder in the copy for what is ours
RECORD = f"{HIDDEN}/laid.json"


class Fingerprint(NamedTuple):
    """Digests of a notebook's cells, which tell one version from another, and of their outputs."""

    cells: str
    outputs: str


ABSENT, UNREADABLE = Fingerprint("absent", ""), Fingerprint("unreadable", "")


@dataclass(frozen=True)
class Changes:
    """What laying a course changed; names are relative to the copy.

    Attributes:
        added: notebooks that were not there.
        renewed: untouched notebooks that now have a newer version.
        kept: edited notebooks, each with the name of the newer version that was laid beside it.
    """

    added: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{len(self.added)} added"] if self.added else []
        parts += [f"{len(self.renewed)} renewed"] if self.renewed else []
        parts += [f"{name} kept as you edited it (the new version is {new})" for name, new in self.kept.items()]
        return ", ".join(parts) or "up to date"


def lay_course(course: Path, folder: Path, outputs: bool = False) -> Changes:
    """Lay every notebook of a course in a folder, under the same names. Each file is written whole or not at all.

    A notebook of the same name that was edited, or that we did not lay, stays; the new version goes beside it, once.

    Args:
        course: holds the notebooks, also in folders of its own.
        folder: the copy; it is made if needed.
        outputs: keep stored outputs and execution counts.

    Raises:
        ValueError: the folder is a file, or belongs to the course itself.
        OSError: the folder cannot be written to.
    """
    check_folder(course, folder)
    laid, changes = read_record(folder), Changes()
    before = dict(laid)
    try:
        for name, notebook in notebooks(course, outputs):
            new = fingerprint(notebook, name)
            place, found = find_place(name, new, folder, laid)
            if place is None:
                continue
            if found != new:
                write(folder / place, nbformat.writes(notebook) + "\n")
                if place != name:
                    changes.kept[name] = place
                else:
                    (changes.added if found == ABSENT else changes.renewed).append(name)
            laid[place] = new
        if laid != before:  # after a kill before this line, the next start finds each notebook to be what it would lay
            write(folder / RECORD, json.dumps(laid, indent=1) + "\n")
    except OSError as error:
        raise OSError(f"cannot write {error.filename} ({error.strerror}): name another folder for your copy") from None
    return changes


def check_folder(course: Path, folder: Path) -> None:
    """Raise one sentence if a copy cannot be laid there."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for your copy of the course")
    course, folder = course.resolve(), folder.resolve()
    if folder == course.parent or folder.is_relative_to(course):
        raise ValueError(f"{folder} belongs to the course itself: name another folder for your copy of it")


def notebooks(course: Path, outputs: bool) -> Iterator[tuple[str, NotebookNode]]:
    """The course's notebooks as they are laid, each with its name relative to the course."""
    for file in sorted(course.rglob("*.ipynb")):
        name = file.relative_to(course)
        if any(part.startswith(".") for part in name.parts):  # JupyterLab's checkpoints
            continue
        notebook = nbformat.read(file, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code" and not outputs:
                cell.outputs, cell.execution_count = [], None
        # The rest of what JupyterLab writes here is in the notebook; this is known only where its kernel runs.
        notebook.metadata.setdefault("language_info", NotebookNode())["version"] = platform.python_version()
        yield name.as_posix(), notebook


def find_place(
    name: str, new: Fingerprint, folder: Path, laid: dict[str, Fingerprint]
) -> tuple[str | None, Fingerprint]:
    """The name that a new version may have in the copy, and what is there now; None for the name if it is not needed.

    Args:
        name: the notebook's name in the course.
        new: of its version there.
        folder: the copy.
        laid: what was laid last under each name.
    """
    for place in names(name):
        found, last = look(folder / place, name), laid.get(place, ABSENT)
        untouched = found in (ABSENT, last)
        if found == new or (untouched and place == name):
            return place, found
        if new.cells in (found.cells, last.cells):  # this version was laid here; then it was run, edited or deleted
            return None, found
        if untouched:
            return place, found
    raise AssertionError("names() never ends")


def names(name: str) -> Iterator[str]:
    """07_lora.ipynb, 07_lora.new.ipynb, 07_lora.new2.ipynb and so on."""
    yield name
    path = PurePosixPath(name)
    for number in itertools.count(1):
        yield str(path.with_name(f"{path.stem}.new{number if number > 1 else ''}{path.suffix}"))


def fingerprint(notebook: NotebookNode, name: str) -> Fingerprint:
    """What a learner or a kernel changes in a notebook of this name in the course."""
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells]
    outputs = [cell.get("outputs", []) for cell in notebook.cells] if name != INDEX else []
    return Fingerprint(digest(cells), digest(outputs))


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def look(file: Path, name: str) -> Fingerprint:
    """The fingerprint of a file in the copy; what is no notebook counts as an edited one."""
    if not os.path.lexists(file):
        return ABSENT
    try:
        return fingerprint(nbformat.read(file, as_version=4), name)
    except Exception:  # a folder, a picture, half a notebook: nbformat raises something else for each
        return UNREADABLE


def read_record(folder: Path) -> dict[str, Fingerprint]:
    """What was laid last under each name; without a record that makes sense, every notebook counts as the learner's."""
    try:
        stored = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {str(name): Fingerprint(*map(str, each)) for name, each in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write(file: Path, text: str) -> None:
    """Write a file whole or not at all, also when the process is killed on the way."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(file)
