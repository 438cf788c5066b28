"""A real JupyterLab and a real Chromium, started once, on a copy of the course as learners have it.

The server listens on 127.0.0.1 only, behind a random token, and keeps all its files in pytest's temporary folder.
Screenshots go to the folder that PEFTEACH_ARTEFACTS names, or stay in the temporary folder.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pefteach.commands import lab as course_lab
from pefteach.commands.working_copy import lay_course
from pefteach.paths import COURSE

from .notebook import Page

LESSONS = sorted(COURSE.glob("[0-9][0-9]_*.ipynb"))
FLAGS = ["no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update", "disable-sync"]
SETTINGS = course_lab.SETTINGS | {
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    # Cells out of sight stay in the page, and nothing stands below the last one.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none", "scrollPastEnd": False},
}
FOLDERS = (
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
    "JUPYTER_RUNTIME_DIR",
    "JUPYTERLAB_SETTINGS_DIR",
    "JUPYTERLAB_WORKSPACES_DIR",
    "IPYTHONDIR",
)


def pytest_generate_tests(metafunc):
    if "lesson" in metafunc.fixturenames:
        metafunc.parametrize("lesson", LESSONS, ids=[path.stem for path in LESSONS])


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory) -> Path:
    named = os.environ.get("PEFTEACH_ARTEFACTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def chromium():
    """A headless browser. Without one the tests are skipped, except where CI says that all of them must run."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not found:
        reason = f"no {' or '.join(names)} on PATH: install one, or name its program in CHROMIUM"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=found, args=[f"--{flag}" for flag in FLAGS])


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """What the server serves: a learner's copy, with outputs. Tests may put notebooks of their own there."""
    folder = tmp_path_factory.mktemp("served") / "course"
    lay_course(COURSE, folder, outputs=True)
    return folder


@pytest.fixture(scope="session")
def lab(folder, tmp_path_factory):
    """A running JupyterLab: a function from a notebook's name to its address."""
    # Whoever ends the tests ends the server too: one left behind, with a kernel at work, slows down the next run.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home, token = tmp_path_factory.mktemp("lab"), secrets.token_hex(16)
    (home / "overrides.json").write_text(json.dumps(SETTINGS))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = course_lab.options(folder, port, browser=False, token=token, page="/lab")
    options += [f"--LabApp.app_settings_dir={home}", "--LabApp.expose_app_in_browser=True"]
    log = home / "log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=os.environ | {name: str(home / name) for name in FOLDERS},
            stdin=subprocess.DEVNULL,  # a server that reads a terminal from the background is stopped
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=10).close()
            break
        except urllib.error.HTTPError as error:  # it knows no such token, so it is not ours
            pytest.fail(f"another server took port {port}: {error}")
        except OSError:
            time.sleep(0.1)
    else:
        server.kill()
        pytest.fail(f"JupyterLab does not answer on port {port}; its log says: {log.read_text()}")
    yield lambda name: f"http://127.0.0.1:{port}/doc/tree/{name}?token={token}&reset"
    server.kill()  # its kernels ended with their tests, and it has nothing to save
    server.wait()


@pytest.fixture(scope="session")
def tabs(chromium):
    """Where tabs open. They share a cache, so that only the first one loads all of JupyterLab."""
    return chromium.new_context(viewport={"width": 1200, "height": 1300})


@pytest.fixture
def open_notebook(lab, tabs):
    """Open a notebook of the served folder in a new tab; its kernel ends with the test."""
    pages = []

    def go(name: str) -> Page:
        pages.append(Page(tabs.new_page(), lab(name)))
        return pages[-1]

    yield go
    for page in pages:
        page.shut_down()
    for tab in tabs.pages:
        tab.close()
