"""A measured figure and its limit, as one row for machines and for people."""

from __future__ import annotations

from typing import TypedDict

COLUMNS = ("", "ours", "peer", "ratio", "limit", "holds")


class Row(TypedDict):
    """One figure. ``bar`` is its limit, if any: the most that ``ratio`` may be, or ``ours`` where there is no peer."""

    name: str
    unit: str
    ours: float
    peer: float | None
    ratio: float | None
    bar: float | None
    holds: bool


def row(name: str, unit: str, ours: float, limit: float | None, peer: float | None = None) -> Row:
    """Compare a figure with its limit: the figure itself, or its ratio to the peer's if there is one."""
    ratio = None if peer is None else ours / peer
    holds = limit is None or (ours if ratio is None else ratio) <= limit
    return {"name": name, "unit": unit, "ours": ours, "peer": peer, "ratio": ratio, "bar": limit, "holds": holds}


def cells(row: Row) -> list[str]:
    """A row as people read it. The limit is for the ratio where there is one, and for our own figure elsewhere."""
    unit, ratio, limit = row["unit"], row["ratio"], row["bar"]
    return [
        row["name"],
        figure(row["ours"], unit),
        "" if row["peer"] is None else figure(row["peer"], unit),
        "" if ratio is None else f"{ratio:.3f}",
        "" if limit is None else f"{limit:g}" + (f" {unit}" if ratio is None else ""),
        "" if limit is None else "yes" if row["holds"] else "NO",
    ]


def figure(value: float, unit: str) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"
