"""What a check, a hint or a solution shows the student, as text and as plain HTML."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass, field
from typing import Any

RIGHT, WRONG, NOT_ATTEMPTED, CANNOT_CHECK = "right", "wrong", "not attempted", "cannot check"

TITLES = {RIGHT: "✓ Right", WRONG: "✗ Not right yet", NOT_ATTEMPTED: "… Not attempted", CANNOT_CHECK: "! Cannot check"}


@dataclass(frozen=True)
class Note:
    """A heading, a message and, below it, lines of evidence or code."""

    title: str
    message: str
    lines: tuple[str, ...] = ()

    def __repr__(self) -> str:
        message = [part for line in self.message.splitlines() for part in textwrap.wrap(line, 100)]
        return "\n".join([self.title, *(f"  {line}" for line in (*message, *self.lines))])

    def _repr_html_(self) -> str:
        # The colours are the reader's own, so that light, dark and high-contrast themes all work.
        message = html.escape(self.message).replace("\n", "<br>")
        lines = (
            f'<pre style="white-space: pre-wrap">{html.escape(chr(10).join(self.lines))}</pre>' if self.lines else ""
        )
        style = "border-left: 4px solid currentColor; padding-left: 0.8em"
        return f'<div role="status" style="{style}"><b>{html.escape(self.title)}</b><p>{message}</p>{lines}</div>'


@dataclass(frozen=True, repr=False)
class Verdict(Note):
    """The outcome of a check.

    Args:
        status: "right", "wrong", "not attempted" or "cannot check" (that one is our fault).
        mistake: the name of the mistake that was recognised, if any.
        arguments: what the code was called with when it went wrong, to try it by hand.
    """

    status: str = CANNOT_CHECK
    mistake: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def right(self) -> bool:
        return self.status == RIGHT


def verdict(status: str, name: str, message: str, *lines: str, **more: Any) -> Verdict:
    """A verdict with the title that belongs to its status."""
    return Verdict(f"{TITLES[status]}: {name}", message, lines, status, **more)
