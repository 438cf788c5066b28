"""A real JupyterLab and a real Chromium, started once, on a copy of the course that nothing is written back from.

The server listens on 127.0.0.1 only, behind a random token, and keeps all its files in pytest's temporary folder.
Screenshots go to the folder that PEFTEACH_ARTEFACTS names, or stay in the temporary folder.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from pefteach import lab as course_lab
from pefteach.paths import COURSE

from .notebook import Page

LESSONS = sorted(COURSE.glob("[0-9][0-9]_*.ipynb"))
FLAGS = ["no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update", "disable-sync"]
SETTINGS = course_lab.SETTINGS | {
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # cells out of sight stay in the page
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
    """What the server serves: copies of the lessons. Tests may put notebooks of their own there."""
    folder = tmp_path_factory.mktemp("course")
    for lesson in LESSONS:
        shutil.copy(lesson, folder)
    return folder


@pytest.fixture(scope="session")
def lab(folder, tmp_path_factory):
    """A running JupyterLab: a function from a notebook's name to its address."""
    home, token = tmp_path_factory.mktemp("lab"), secrets.token_hex(16)
    (home / "overrides.json").write_text(json.dumps(SETTINGS))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course_lab, "COURSE", folder)
        options = course_lab.options(port, browser=False, token=token, page="/lab")
    options += [f"--LabApp.app_settings_dir={home}", "--LabApp.expose_app_in_browser=True"]
    log = home / "log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=os.environ | {name: str(home / name) for name in FOLDERS},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=2).close()
            break
        except OSError:
            time.sleep(0.1)
    yield lambda name: f"http://127.0.0.1:{port}/doc/tree/{name}?token={token}&reset"
    server.kill()  # its kernels ended with their tests, and it has nothing to save
    server.wait()


@pytest.fixture
def open_notebook(lab, chromium):
    """Open a notebook of the served folder in a fresh browser context; its kernel ends with the test."""
    context = chromium.new_context(viewport={"width": 1200, "height": 1300})
    pages = []

    def go(name: str) -> Page:
        pages.append(Page(context.new_page(), lab(name)))
        return pages[-1]

    yield go
    for page in pages:
        page.shut_down()
    context.close()
