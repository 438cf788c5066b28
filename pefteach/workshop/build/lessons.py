"""Build the lessons: ``lessons/<name>/lesson.py`` is what people write, ``course/NN_name.ipynb`` what they open.

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

from pefteach.lessons.catalogue import LESSONS, Lesson
from pefteach.paths import COURSE, ROOT

LARGEST = 500_000  # bytes; a larger notebook is slow to open, to diff and to clone
SECONDS_PER_CELL = 600
ENVIRONMENT = {
    "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
}  # no bars with rates in the outputs; no lesson may need a network
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}
KEPT = ("tags", "nbval")  # of a cell's metadata: what the comparison of outputs reads


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one build, the kernel's start included, and its slowest cell (counted from 1)."""

    seconds: float
    slowest_cell: int
    slowest_seconds: float


def build_course(names: list[str], check: bool) -> int:
    """Build lessons and store them, or check without running anything that what is stored is what the sources say.

    With names, those lessons only; with none, every lesson and the student versions of the exercises.

    Returns:
        An exit status: 0, or 1 if a lesson raised or something is stale. What it was is printed.

    Raises:
        ValueError: a name that is no lesson.
    """
    lessons = lessons_named(names)
    problems = []
    for lesson in lessons:
        try:
            if check:
                check_lesson(lesson.source, lesson.name, COURSE)
            else:
                timing = build_lesson(lesson.source, lesson.name, COURSE)
                print(
                    f"{lesson.name}: {timing.seconds:.1f} s, slowest is cell {timing.slowest_cell} "
                    f"with {timing.slowest_seconds:.1f} s",
                    flush=True,
                )
        except ValueError as error:
            problems.append(str(error))
            print(error, file=sys.stderr, flush=True)
    if not names:
        from pefteach.workshop.build.students import build_release

        known = {lesson.name for lesson in lessons}
        orphans = [path.name for path in sorted(COURSE.glob("[0-9]*.ipynb")) if path.stem not in known]
        stale = [f"{name} is no lesson of the catalogue: delete it" for name in orphans]
        stale += [f"{thing} is stale: run `pefteach build`" for thing in build_release(check)]
        print("\n".join(stale), file=sys.stderr, end="\n" if stale else "")
        problems += stale
    return 1 if problems else 0


def lessons_named(names: list[str]) -> list[Lesson]:
    """The named lessons, or all of them, in the course's order.

    Raises:
        ValueError: a name that is no lesson.
    """
    found = {lesson.name: lesson for lesson in LESSONS}
    for name in names:
        if name not in found:
            raise ValueError(f"no lesson is called {name!r}; there are: {', '.join(found)}")
    return [lesson for name, lesson in found.items() if not names or name in names]


def build_lesson(source: Path, name: str, out: Path) -> Timing:
    """Run a source with ``out`` as its working directory and write ``out/<name>.ipynb``.

    Raises:
        ValueError: a cell raised, took too long or killed the kernel, or its output can't be stored; the notebook of
            the last build stays as it was.
    """
    notebook = nbformat.v4.new_notebook(cells=jupytext.read(source).cells, metadata=METADATA)
    start = time.perf_counter()
    per_cell = run(notebook, out, name)
    seconds = time.perf_counter() - start
    text = as_text(clean(notebook, name))
    for sentence in unfit(notebook):
        raise ValueError(f"{name}: {sentence}")
    if len(text.encode()) > LARGEST:
        raise ValueError(
            f"{name}: the notebook would be {len(text.encode()) // 1000} kB, more than {LARGEST // 1000} kB: "
            f"draw smaller or fewer pictures"
        )
    (out / f"{name}.ipynb").write_text(text, encoding="utf-8")
    return Timing(seconds, 1 + per_cell.index(max(per_cell)), max(per_cell))


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
    notebook.metadata = nbformat.from_dict(METADATA)
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


def check_lesson(source: Path, name: str, out: Path) -> None:
    """Compare a stored notebook with its source, running nothing.

    Raises:
        ValueError: says how the notebook is stale, or that it is not as a build writes it.
    """
    path, again = out / f"{name}.ipynb", f"run `pefteach build {name}`"
    if not path.exists():
        raise ValueError(f"{path.name} does not exist: {again}")
    text = path.read_text(encoding="utf-8")
    notebook, written = nbformat.reads(text, 4), jupytext.read(source)
    of = lambda cell: (cell.cell_type, cell.source, {key: cell.metadata[key] for key in KEPT if key in cell.metadata})
    if [of(cell) for cell in notebook.cells] != [of(cell) for cell in written.cells]:
        raise ValueError(f"{path.name} differs from its source: {again}")
    counts = [cell.execution_count for _, cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        raise ValueError(f"{path.name} was not run from top to bottom: {again}")
    if unfit(notebook) or as_text(clean(notebook, name)) != text:
        raise ValueError(f"{path.name} is not as a build writes it: {again}")


def code_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """The code cells with the number that stands beside them, counted from 1."""
    return list(enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1))


def first_line(cell: NotebookNode) -> str:
    return cell.source.strip().split("\n")[0]


def as_text(notebook: NotebookNode) -> str:
    return nbformat.writes(notebook) + "\n"
