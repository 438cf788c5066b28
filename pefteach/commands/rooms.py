"""``pefteach rooms``."""

from __future__ import annotations

from pefteach.commands.options import Json


def rooms(json: Json = False) -> None:
    """Print which room of the package imports from which, and count arrows and circles."""
    from rich import print, print_json

    from pefteach.workshop.rooms import arrows, circles, upward

    found = arrows()
    rooms = set(found).union(*found.values())
    counts = {"rooms": len(rooms), "arrows": sum(map(len, found.values())), "upward": upward(found),
              "circles": len(circles(found))}  # fmt: skip
    if json:
        print_json(data=counts | {"imports": {room: sorted(others) for room, others in sorted(found.items())}})
        return
    for room, others in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
        print(f"{room:>10} imports from {', '.join(sorted(others))}")
    print("{rooms} rooms, {arrows} arrows, {upward} that run back up, {circles} circles".format(**counts))
