"""The structure of the package in three numbers: arrows between its rooms, arrows that run back up, and circles.

A room is a folder of the package, or a file directly in it. An arrow leads from a room to one that it imports from.
``lint-imports`` checks that they follow the order in ``pyproject.toml``; this counts them, on any version of the code.
"""

from __future__ import annotations

from collections import defaultdict

import grimp


def arrows(package: str = "pefteach") -> dict[str, set[str]]:
    """The rooms that each room imports from."""
    graph = grimp.build_graph(package)
    found: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            here, there = _room(module), _room(imported)
            if here != there and package not in (here, there):
                found[here].add(there)
    return dict(found)


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of rooms that can all be reached from each other."""
    below = {room: _reached(arrows, room) for room in arrows}
    groups = {tuple(sorted(other for other in below[room] if room in below.get(other, ()))) for room in arrows}
    return sorted(list(group) for group in groups if group)


def _reached(arrows: dict[str, set[str]], room: str) -> set[str]:
    reached: set[str] = set()
    waiting = [room]
    while waiting:
        new = arrows.get(waiting.pop(), set()) - reached
        reached |= new
        waiting += new
    return reached


def upward(arrows: dict[str, set[str]]) -> int:
    """How many arrows have to go before all point one way: one after the other, the one that helps most first."""
    left = {room: set(others) for room, others in arrows.items()}
    removed = 0
    while groups := circles(left):
        # The arrow without which the fewest rooms are left in circles goes first.
        room, other = min(
            ((a, b) for group in groups for a in group for b in left.get(a, ()) if b in group),
            key=lambda arrow: (sum(len(g) for g in circles(_without(left, *arrow))), arrow),
        )
        left, removed = _without(left, room, other), removed + 1
    return removed


def _without(arrows: dict[str, set[str]], room: str, other: str) -> dict[str, set[str]]:
    return {name: others - {other} if name == room else others for name, others in arrows.items()}
