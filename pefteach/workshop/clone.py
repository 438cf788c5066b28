"""Some commands write into the repository, so they need all of it and not only the installed package."""

from __future__ import annotations

from pefteach.paths import ROOT


def need_clone(command: str) -> None:
    """Raise unless the package lies in a clone of the repository.

    Args:
        command: what needs it, for the message.

    Raises:
        ValueError: it does not.
    """
    if not (ROOT / "pyproject.toml").is_file():
        raise ValueError(f"pefteach {command} needs a clone of the whole repository, and {ROOT} is none")
