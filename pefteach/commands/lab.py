"""Open the course in JupyterLab: on this computer only, behind a token, with nothing fetched from the network."""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pefteach.paths import COURSE

SETTINGS = {
    # No question about news at the first start, and no look for updates.
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    # What a learner wrote is on disk after half a minute; JupyterLab's own default is two.
    "@jupyterlab/docmanager-extension:plugin": {"autosave": True, "autosaveInterval": 30},
}
WORKSPACE = "pefteach"  # the tabs of the course, apart from those of the learner's other projects


def open_lab(port: int, browser: bool) -> int:
    """Serve ``course/`` on 127.0.0.1 until Ctrl-C, and return 0.

    Args:
        port: the port to listen on.
        browser: open a browser window at the course.

    Raises:
        FileNotFoundError: pefteach was installed without the lessons.
        ValueError: JupyterLab is not installed, or no such port.
        OSError: the port is in use, or not allowed.
    """
    lessons = sorted(COURSE.glob("[0-9][0-9]_*.ipynb"))
    if not lessons:
        raise FileNotFoundError(f"no lessons in {COURSE}: clone the whole repository, and there `pip install -e .`")
    check_port(port)
    try:
        from jupyterlab.labapp import LabApp
    except ImportError as error:
        raise ValueError(f"JupyterLab does not start ({error}): install it with `pip install jupyterlab`") from None

    token = secrets.token_hex(24)
    page = start_page(lessons[0].name)
    with tempfile.TemporaryDirectory() as folder:
        add_settings(Path(folder))
        server = LabApp.initialize_server(argv=options(port, browser, token, page))
        address = f"http://127.0.0.1:{port}{page}?token={token}"
        print(f"The course is at\n\n    {address}\n\nPress Ctrl-C here to stop.", flush=True)
        server.start()
    return 0


def check_port(port: int) -> None:
    """Raise one clear sentence if JupyterLab could not listen there."""
    if not 1 <= port <= 65535:
        raise ValueError(f"a port is a number from 1 to 65535, not {port}")
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} is in use (by the course, open already?): choose another with --port") from None
        raise OSError(f"cannot listen on port {port} ({error.strerror}): choose another with --port") from None


def start_page(first_lesson: str) -> str:
    """Lesson 1 at the first start; from then on, the tabs that were open last time."""
    from jupyterlab.commands import get_workspaces_dir

    known_here = any(Path(get_workspaces_dir()).glob(f"{WORKSPACE}-*"))
    return f"/lab/workspaces/{WORKSPACE}" + ("" if known_here else f"/tree/{first_lesson}")


def add_settings(folder: Path) -> None:
    """Lay our defaults in a configuration folder that JupyterLab reads; the learner's own settings still win."""
    (folder / "labconfig").mkdir()
    (folder / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))
    found = os.environ.get("JUPYTER_CONFIG_PATH")
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join([str(folder), *([found] if found else [])])


def options(port: int, browser: bool, token: str, page: str) -> list[str]:
    """What a configuration file of the learner's could otherwise set differently."""
    return [
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={COURSE}",
        f"--ServerApp.open_browser={browser}",
        "--ServerApp.allow_root=True",  # in a container there is often nobody else
        "--ServerApp.answer_yes=True",  # Ctrl-C ends it without a question
        "--Application.log_level=ERROR",
        f"--LabApp.default_url={page}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",  # the other one lists packages from the network
    ]


def lab(
    port: Annotated[int, typer.Option(help="The port to listen on, on this computer only.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
) -> None:
    """Open the course in JupyterLab."""
    raise typer.Exit(open_lab(port, browser))
