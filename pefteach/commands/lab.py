"""Open the learner's copy of the course in JupyterLab: on this computer only, behind a token, without the network."""

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
WORKSPACE = "pefteach"  # JupyterLab's name for the tabs that are open


def open_lab(folder: Path, port: int, browser: bool, outputs: bool) -> int:
    """Lay a copy of the course in a folder, or renew the one there, and serve it on 127.0.0.1 until Ctrl-C.

    Args:
        folder: the copy.
        port: the port to listen on.
        browser: open a browser window at the course.
        outputs: lay the notebooks with their stored outputs.

    Returns:
        0.

    Raises:
        FileNotFoundError: pefteach was installed without the lessons.
        ValueError: JupyterLab is not installed, no such port, or no folder for a copy.
        OSError: the port is in use or not allowed, or the folder cannot be written to.
    """
    if not (COURSE / "index.ipynb").exists():
        raise FileNotFoundError(f"no lessons in {COURSE}: install pefteach again, from its wheel or a whole clone")
    check_port(port)
    try:
        import jupyterlab.labapp  # noqa: F401
    except ImportError as error:
        raise ValueError(f"JupyterLab does not start ({error}): install it with `pip install jupyterlab`") from None
    from pefteach.commands.working_copy import lay_course

    changes = lay_course(COURSE, folder, outputs)
    print(f"Your copy of the course is in {folder}; notebooks: {changes}.", flush=True)
    serve(folder.resolve(), port, browser)
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


def serve(folder: Path, port: int, browser: bool) -> None:
    """Run JupyterLab in a folder until Ctrl-C, and print its address."""
    from jupyterlab.labapp import LabApp

    token, page = secrets.token_hex(24), start_page(folder)
    with tempfile.TemporaryDirectory() as settings:
        add_settings(Path(settings))
        server = LabApp.initialize_server(argv=options(folder, port, browser, token, page))
        address = f"http://127.0.0.1:{port}{page}?token={token}"
        print(f"Open it at\n\n    {address}\n\nPress Ctrl-C here to stop.", flush=True)
        server.start()


def start_page(folder: Path) -> str:
    """The course's index at the first start; from then on, the tabs that were open last time."""
    opened_before = any(workspaces(folder).glob(f"{WORKSPACE}-*"))
    return f"/lab/workspaces/{WORKSPACE}" + ("" if opened_before else "/tree/index.ipynb")


def workspaces(folder: Path) -> Path:
    """Where JupyterLab keeps its tabs: in the copy, so that two copies do not open each other's notebooks."""
    return folder / ".pefteach-course" / "workspaces"


def add_settings(folder: Path) -> None:
    """Lay our defaults in a configuration folder that JupyterLab reads; the learner's own settings still win."""
    (folder / "labconfig").mkdir()
    (folder / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))
    found = os.environ.get("JUPYTER_CONFIG_PATH")
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join([str(folder), *([found] if found else [])])


def options(folder: Path, port: int, browser: bool, token: str, page: str) -> list[str]:
    """What a configuration file of the learner's could otherwise set differently."""
    return [
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}",
        f"--ServerApp.open_browser={browser}",
        "--ServerApp.allow_root=True",  # in a container there is often nobody else
        "--ServerApp.answer_yes=True",  # Ctrl-C ends it without a question
        "--Application.log_level=ERROR",
        f"--LabApp.default_url={page}",
        f"--LabApp.workspaces_dir={workspaces(folder)}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",  # the other one lists packages from the network
    ]


def lab(
    folder: Annotated[
        Path, typer.Argument(help="Your copy of the course: made if needed, renewed where you have not edited it.")
    ] = Path("pefteach-course"),
    port: Annotated[int, typer.Option(help="The port to listen on, on this computer only.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
    with_outputs: Annotated[bool, typer.Option("--with-outputs", help="Lay the notebooks with their outputs.")] = False,
) -> None:
    """Open your own copy of the course in JupyterLab."""
    raise typer.Exit(open_lab(folder.expanduser(), port, browser, with_outputs))
