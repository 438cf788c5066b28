"""Run a stored notebook with nbval and say which outputs are no longer what is stored.

nbval compares text exactly. Numbers move a little from one processor to the next, so here a number that is written
with a point or an exponent may differ by a relative ``rtol`` (1e-3, or what the cell's ``nbval`` metadata says);
integers and everything between the numbers must be equal.
"""

import functools
import math
import re
from pathlib import Path

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile, NbCellError

RTOL, ATOL = 1e-3, 1e-6
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?![\w.]*\w)")


def near(stored: str, fresh: str, rtol: float = RTOL, atol: float = ATOL) -> bool:
    """The same words, the same integers, and about the same numbers. Widths of blanks may differ (aligned columns)."""
    words = lambda text: re.sub(r"[ \t]+", " ", NUMBER.sub("#", text))
    pairs = list(zip(NUMBER.findall(stored), NUMBER.findall(fresh)))
    same = lambda a, b: math.isclose(float(a), float(b), rel_tol=rtol, abs_tol=atol)
    is_float = lambda number: any(mark in number for mark in ".eE")
    return words(stored) == words(fresh) and all(
        a == b or (is_float(a) and is_float(b) and same(a, b)) for a, b in pairs
    )


class Near(str):
    """Text that is equal to text that is :func:`near` it: what lets nbval, which asks ``==``, be tolerant."""

    rtol, atol = RTOL, ATOL
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return near(str(self), str(other), self.rtol, self.atol)

    def __ne__(self, other: object) -> bool:
        return not self == other


def tolerant(cell: IPyNbCell, value):
    """What nbval puts an output through before it compares: text becomes :class:`Near`."""
    if not isinstance(value, str):
        return value
    text, settings = Near(value), cell.cell.metadata.get("nbval", {})
    text.rtol, text.atol = settings.get("rtol", RTOL), settings.get("atol", ATOL)
    return text


def differences(path: Path, session: pytest.Session) -> list[str]:
    """Run a notebook once; one message per cell whose output differs, ending at the first that raises.

    Raises:
        ValueError: a cell was never run, so there is nothing to compare it with.
    """
    file = IPyNbFile.from_parent(session, path=path)
    cells = list(file.collect())
    for cell in cells:
        if cell.cell.execution_count is None and not cell.options["skip"]:
            raise ValueError(
                f"{path.name}: code cell {cell.cell_num + 1} was never run; run `pefteach build {path.stem}`"
            )
    file.setup()
    # With history on, a trailing ; silences a cell here as it does in JupyterLab.
    file.kernel.execute_cell_input = lambda source, allow_stdin=None: file.kernel.kc.execute(
        source, store_history=True, allow_stdin=allow_stdin, stop_on_error=False
    )
    found = []
    try:
        for cell in cells:
            cell.sanitize = functools.partial(tolerant, cell)
            try:
                if not cell.options["skip"]:
                    cell.runtest()
            except NbCellError as error:
                told = f"code cell {cell.cell_num + 1}: {error}\n{error.source}\n{error.inner_traceback}"
                found.append(COLOUR.sub("", told))
                if "differ" not in str(error):
                    break  # what follows a cell that raised says nothing new
    finally:
        file.teardown()
    return found
