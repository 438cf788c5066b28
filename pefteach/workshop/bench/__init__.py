"""Benchmarks: the ``run()`` of each file measures and returns rows; ``print_bench`` prints them."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import rich
from rich.markup import escape
from rich.table import Table

from pefteach.workshop.machine import machine, where
from pefteach.workshop.rows import COLUMNS, Row, cells

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "timing"))


def print_bench(name: str, json: bool, write: bool = False) -> None:
    """Run one benchmark and print its rows, as a table or as JSON.

    Args:
        write: also write docs/gpu.md, which "gpu" alone does.

    Raises:
        ValueError: no benchmark of that name, one that writes nothing, or something it needs is missing.
    """
    if name not in NAMES:
        raise ValueError(f"no benchmark is called {name!r}: choose one of {', '.join(NAMES)}")
    if write and name != "gpu":
        raise ValueError(f"`pefteach bench {name}` writes no file: only `pefteach bench gpu --write` does")
    run = import_module(f"pefteach.workshop.bench.{name}").run
    rows = run(write=True) if write else run()
    if json:
        rich.print_json(data={"benchmark": name, "machine": machine(), "rows": rows})
    else:
        rich.print(table(name, rows))


def table(name: str, rows: list[Row]) -> Table:
    """Rows as people read them."""
    drawn = Table(title=f"pefteach bench {name}", caption=where())
    for column in COLUMNS:
        drawn.add_column(column, justify="left" if column in ("", "holds") else "right")
    for row in rows:
        drawn.add_row(*map(escape, cells(row)))
    return drawn
