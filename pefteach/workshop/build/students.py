"""The student version of a master."""

from __future__ import annotations

import copy

from nbformat import NotebookNode


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
