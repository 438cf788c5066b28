"""Builds a lesson: ``lessons/<name>/lesson.py`` is what people write, ``course/NN_name.ipynb`` what they open.

A source is a script in jupytext's percent format. Building runs it in a fresh kernel and stores the outputs, cleaned
so that the same source gives the same bytes again: no widget state, no timings, nothing that names this computer.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from pefteach.paths import ROOT
from pefteach.workshop.build.stored import as_text, metadata

LARGEST = 500_000  # bytes; a larger notebook is slow to open, to diff and to clone
SECONDS_PER_CELL = 600
ENVIRONMENT = {
    "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
}  # no bars with rates in the outputs; no lesson may need a network
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KEPT = ("tags", "nbval")  # of a cell's metadata: what the comparison of outputs reads


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one build, the kernel's start included, and its slowest cell (counted from 1)."""

    seconds: float
    slowest_cell: int
    slowest_seconds: float


def build_lesson(source: Path, out: Path, end: str = "") -> Timing:
    """Run a source in the folder of its notebook ``out``, and write the notebook.

    Args:
        end: markdown for one more cell at the end.

    Raises:
        ValueError: a cell raised, took too long or killed the kernel, or its output can't be stored; the notebook of
            the last build stays as it was.
    """
    notebook = written(source, end)
    start = time.perf_counter()
    per_cell = run(notebook, out.parent, out.stem)
    seconds = time.perf_counter() - start
    text = as_text(clean(notebook, out.stem))
    for sentence in unfit(notebook):
        raise ValueError(f"{out.stem}: {sentence}")
    if len(text.encode()) > LARGEST:
        raise ValueError(
            f"{out.stem}: the notebook would be {len(text.encode()) // 1000} kB, more than {LARGEST // 1000} kB: "
            f"draw smaller or fewer pictures"
        )
    out.write_text(text, encoding="utf-8")
    return Timing(seconds, 1 + per_cell.index(max(per_cell)), max(per_cell))


def written(source: Path, end: str) -> NotebookNode:
    """A source as a notebook that was not run, with the cell ``end`` if there is any."""
    cells = jupytext.read(source).cells
    return nbformat.v4.new_notebook(cells=[*cells, *([nbformat.v4.new_markdown_cell(end)] if end else [])])


def run(notebook: NotebookNode, folder: Path, name: str) -> list[float]:
    """Run every cell in a fresh kernel, in place; the seconds that each code cell took.

    Raises:
        ValueError: names the cell that raised, took longer than ``SECONDS_PER_CELL`` or killed the kernel.
    """
    starts: list[float] = []
    seconds: list[float] = []
    client = NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # the kernel warns on every start that it listens on this computer
        resources={"metadata": {"path": str(folder)}},
        on_cell_execute=lambda **_: starts.append(time.perf_counter()),
        on_cell_executed=lambda **_: seconds.append(time.perf_counter() - starts[-1]),
    )
    try:
        with tempfile.TemporaryDirectory() as profile:  # the user's own IPython start-up files must not change a lesson
            client.execute(env=os.environ | ENVIRONMENT | {"IPYTHONDIR": profile})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        number, cell = code_cells(notebook)[len(starts) - 1]
        what = "killed its kernel" if isinstance(error, DeadKernelError) else f"took over {SECONDS_PER_CELL} s"
        if isinstance(error, CellExecutionError):
            print(error.traceback, file=sys.stderr)
            what = f"raised {error.ename}: {error.evalue}"
        raise ValueError(f"{name}: cell {number} ({first_line(cell)}) {what}") from None
    return seconds


def clean(notebook: NotebookNode, stem: str) -> NotebookNode:
    """Take out, in place, what differs from run to run or from computer to computer."""
    notebook.metadata = nbformat.from_dict(metadata(title=first_line(notebook.cells[0]).lstrip("# ")))
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"{stem}-{index}"
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in KEPT if key in cell.metadata})
        for output in cell.get("outputs", []):
            if "data" in output:
                output.data.pop(WIDGET_VIEW, None)  # its state is gone with the kernel; the picture beside it stays
                alt = output.metadata.get("image/png", {}).get("alt")
                output.metadata = nbformat.from_dict({"image/png": {"alt": alt}} if alt else {})
            if output.output_type == "error":
                output.traceback = [f"{output.ename}: {output.evalue}"]  # the full one holds paths
    return notebook


def unfit(notebook: NotebookNode) -> list[str]:
    """What the outputs say that another run would not: paths of this computer and addresses in memory."""
    places = [str(ROOT), str(Path.home()), sys.prefix, tempfile.gettempdir(), "/home/", "/Users/", "C:\\Users"]
    local = re.compile("|".join(re.escape(place) for place in places if len(place) > 1) + r"|\bat 0x[0-9a-f]{6,}")
    found = []
    for number, cell in code_cells(notebook):
        for output in cell.outputs:
            text = "".join(
                [output.get("text", ""), *(str(v) for k, v in output.get("data", {}).items() if "image" not in k)]
            )
            if hit := local.search(text):
                found.append(
                    f"cell {number} ({first_line(cell)}) prints {hit.group()!r}, which differs elsewhere: print less"
                )
    return found


def check_lesson(source: Path, out: Path, end: str = "") -> None:
    """Compare a stored notebook with its source and the cell ``end``, running nothing.

    Raises:
        ValueError: says how the notebook is stale, or that it is not as a build writes it.
    """
    again = f"run `pefteach build {out.stem}`"
    if not out.exists():
        raise ValueError(f"{out.name} does not exist: {again}")
    text = out.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, 4)
    of = lambda cell: (cell.cell_type, cell.source, {key: cell.metadata[key] for key in KEPT if key in cell.metadata})
    if list(map(of, notebook.cells)) != list(map(of, written(source, end).cells)):
        raise ValueError(f"{out.name} differs from its source: {again}")
    counts = [cell.execution_count for _, cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        raise ValueError(f"{out.name} was not run from top to bottom: {again}")
    if unfit(notebook) or as_text(clean(notebook, out.stem)) != text:
        raise ValueError(f"{out.name} is not as a build writes it: {again}")


def code_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """The code cells with the number that stands beside them, counted from 1."""
    return list(enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1))


def first_line(cell: NotebookNode) -> str:
    return cell.source.strip().split("\n")[0]
