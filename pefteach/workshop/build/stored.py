"""What all stored notebooks have in common: their metadata, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

# As JupyterLab writes it, so that saving a notebook changes nothing. Python's version is added to a learner's copy.
METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"},
    "language_info": {
        "name": "python",
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}


def metadata(title: str) -> dict[str, Any]:
    """A notebook's metadata; an exported page has the title in its window bar."""
    return {**METADATA, "title": title}


def as_text(notebook: NotebookNode) -> str:
    """A notebook as it is written in a file."""
    return nbformat.writes(notebook) + "\n"


def differs(file: Path, notebook: NotebookNode) -> bool:
    """Whether a file does not hold this notebook, byte for byte; a file that does not exist differs."""
    return not file.exists() or file.read_text(encoding="utf-8") != as_text(notebook)


def store(file: Path, notebook: NotebookNode) -> None:
    """Write a notebook, making its folder if needed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(as_text(notebook), encoding="utf-8")
