"""Benchmarks: each file has one, ``measure()``, which returns rows; this prints them."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import rich
from rich.markup import escape
from rich.table import Table

from pefteach.bench.measure import Row, machine, where

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "measure"))


def print_bench(name: str, json: bool) -> None:
    """Run one benchmark and print its rows, as a table or as JSON.

    Raises:
        ValueError: no benchmark of that name, or something it needs is not installed.
    """
    if name not in NAMES:
        raise ValueError(f"no benchmark is called {name!r}: choose one of {', '.join(NAMES)}")
    rows = import_module(f"pefteach.bench.{name}").measure()
    if json:
        rich.print_json(data={"benchmark": name, "machine": machine(), "rows": rows})
    else:
        rich.print(table(name, rows))


def table(name: str, rows: list[Row]) -> Table:
    """Rows as people read them. A bar is for the ratio where there is one, and for our own figure elsewhere."""
    drawn = Table(title=f"pefteach bench {name}", caption=where())
    for column in ("", "ours", "peer", "ratio", "bar", "holds"):
        drawn.add_column(column, justify="left" if column in ("", "holds") else "right")
    for row in rows:
        unit, ratio = row["unit"], row["ratio"]
        drawn.add_row(
            escape(row["name"]),
            figure(row["ours"], unit),
            "" if row["peer"] is None else figure(row["peer"], unit),
            "" if ratio is None else f"{ratio:.3f}",
            "" if row["bar"] is None else f"{row['bar']:g}" + (f" {unit}" if ratio is None else ""),
            "" if row["bar"] is None else "yes" if row["holds"] else "NO",
        )
    return drawn


def figure(value: float, unit: str) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"
