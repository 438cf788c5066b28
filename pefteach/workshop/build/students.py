"""From exercises to masters, and from masters to what the students get."""

from __future__ import annotations

import copy
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from pefteach.lessons.catalogue import SETS
from pefteach.workshop.build.masters import make_master
from pefteach.paths import COURSE


def build_release(check: bool = False, folder: Path = COURSE / "exercises") -> list[str]:
    """Make ``source/`` from the exercises and ``release/`` from ``source/``.

    Args:
        check: write nothing.

    Returns:
        The files that are not what they should be; none after writing them.

    Raises:
        ValueError: nbgrader is not installed.
    """
    masters = {group.lesson: make_master(group) for group in SETS}
    made = {folder / "source" / name / f"{name}.ipynb": master for name, master in masters.items()}
    for name, master in masters.items():
        made[folder / "release" / name / f"{name}.ipynb"] = student_version(master)
    return _put(made, check)


def make_release(source: Path, release: Path, check: bool = False) -> list[str]:
    """Make the student version of every master below a folder, also of masters that are not ours.

    Args:
        source: holds one folder per assignment, with its notebooks.
        release: gets the same folders.
        check: write nothing.

    Returns:
        The files that are not what they should be; none after writing them.

    Raises:
        FileNotFoundError: there is no master in ``source``.
        ValueError: nbgrader is not installed, or a master is not in nbgrader's source format.
    """
    masters = sorted(Path(source).glob("*/*.ipynb"))
    if not masters:
        raise FileNotFoundError(f"there are no notebooks in {source}/*/: name the folder that holds the assignments")
    made = {}
    for file in masters:
        try:
            made[Path(release) / file.relative_to(source)] = student_version(nbformat.read(file, as_version=4))
        except RuntimeError as error:
            raise ValueError(f"{file} is not in nbgrader's source format: {error}") from None
    return _put(made, check)


def student_version(master: NotebookNode) -> NotebookNode:
    """A master without solutions, hidden tests and outputs, with locked cells and checksums.

    The steps are those of ``nbgrader generate_assignment``, without the gradebook.

    Raises:
        ValueError: nbgrader is not installed.
        RuntimeError: the master is not in nbgrader's source format.
    """
    try:
        from nbgrader import preprocessors as step
    except ImportError:
        raise ValueError("nbgrader makes the student versions: install it with pip install 'pefteach[grade]'") from None
    notebook = copy.deepcopy(master)
    resources: dict[str, str] = {}
    for name in ("LockCells", "ClearSolutions", "ClearOutput", "CheckCellMetadata", "ComputeChecksums",
                 "ClearHiddenTests", "ClearMarkScheme", "ComputeChecksums", "CheckCellMetadata"):  # fmt: skip
        notebook, resources = getattr(step, name)().preprocess(notebook, resources)
    return notebook


def _put(notebooks: dict[Path, NotebookNode], check: bool) -> list[str]:
    stale = []
    for file, notebook in notebooks.items():
        text = nbformat.writes(notebook) + "\n"
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        if check:
            stale.append(str(file))
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    return stale
