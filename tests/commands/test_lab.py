"""The course in JupyterLab: who may open it, what it says when it cannot start, and how it ends."""

import errno
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from fakes import block
from pefteach.commands import lab

START = """
import sys
from pathlib import Path
import pefteach.commands.lab
pefteach.commands.lab.COURSE = Path(sys.argv[1])
sys.exit(pefteach.commands.lab.open_lab(Path(sys.argv[2]), int(sys.argv[3]), browser=False, outputs=False))
"""
FOLDERS = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")


@pytest.fixture
def course(tmp_path) -> Path:
    folder = tmp_path / "a course"  # with a blank, as in "My Documents"
    folder.mkdir()
    for name in ("index.ipynb", "01_first.ipynb"):
        nbformat.write(nbformat.v4.new_notebook(), folder / name)
    return folder


@pytest.fixture
def copy(tmp_path) -> Path:
    return tmp_path / "a copy"


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def start(tmp_path, course, copy, port):
    """Start it in a process of its own, with a home of its own, and wait until it has printed the address."""
    running = []

    def go(**more: str) -> tuple[subprocess.Popen, str]:
        home = {name: str(tmp_path / name) for name in FOLDERS}
        errors = (tmp_path / "errors").open("w")
        terminal, keyboard = pty.openpty()  # at a terminal, Jupyter would ask before it ends
        server = subprocess.Popen(
            [sys.executable, "-c", START, str(course), str(copy), str(port)],
            env=os.environ | home | more, stdin=keyboard, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        running.append((server, terminal, keyboard))
        for line in server.stdout:
            if found := re.search(r"http://\S+", line):
                return server, found[0]
        pytest.fail((tmp_path / "errors").read_text())

    yield go
    for server, *ends in running:
        server.kill()
        server.wait()
        for end in ends:
            os.close(end)


def fetch(address: str) -> str:
    """The answer, once there is one: the address is printed just before the server listens to it."""
    for _ in range(300):
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"no answer from {address}")


def test_it_serves_the_course_to_the_token_and_to_nobody_else(start, course, port, tmp_path):
    # A configuration of the learner's that would open the door must not.
    (tmp_path / "JUPYTER_CONFIG_DIR").mkdir()
    wide_open = {"ServerApp": {"ip": "0.0.0.0"}, "IdentityProvider": {"token": ""}}
    (tmp_path / "JUPYTER_CONFIG_DIR" / "jupyter_server_config.json").write_text(json.dumps(wide_open))
    server, address = start(JUPYTER_TOKEN="guessed")
    where, token = address.split("?token=")
    assert where == f"http://127.0.0.1:{port}/lab/workspaces/pefteach/tree/index.ipynb"
    assert len(token) >= 32
    root = f"http://127.0.0.1:{port}"

    listed = json.loads(fetch(f"{root}/api/contents?token={token}"))
    assert {item["name"] for item in listed["content"]} == {"index.ipynb", "01_first.ipynb"}
    for wrong in ("", "?token=", "?token=guessed", f"?token={token[:-1]}"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            fetch(f"{root}/api/contents{wrong}")
        assert refused.value.code == 403
    if sys.platform == "linux":  # all of 127/8 is this computer there, so another address of it stands for the network
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=10).close()

    assert "jupyter-config-data" in fetch(address)
    page = json.loads(re.search(r'<script id="jupyter-config-data"[^>]*>(.*?)</script>', fetch(address), re.S)[1])
    assert page["news"]["disabled"] and page["workspace"] == "pefteach" and page["treePath"] == "index.ipynb"
    documents = json.loads(fetch(f"{root}/lab/api/settings/@jupyterlab/docmanager-extension:plugin?token={token}"))
    assert documents["schema"]["properties"]["autosaveInterval"]["default"] == 30
    notices = json.loads(fetch(f"{root}/lab/api/settings/@jupyterlab/apputils-extension:notification?token={token}"))
    assert notices["schema"]["properties"]["fetchNews"]["default"] == "false"
    assert notices["schema"]["properties"]["checkForUpdates"]["default"] is False
    assert '"token"' not in (tmp_path / "errors").read_text()

    server.send_signal(signal.SIGINT)
    assert server.wait(60) == 0
    assert "Traceback" not in (tmp_path / "errors").read_text()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10).close()


def test_a_port_in_use(course, copy, monkeypatch):
    monkeypatch.setattr(lab, "COURSE", course)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"^port {port} is in use .*--port$"):
            lab.open_lab(copy, port, browser=False, outputs=False)


def test_a_port_that_is_not_allowed(course, copy, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(lab, "COURSE", course)
    monkeypatch.setattr(lab.socket, "create_server", refuse)
    with pytest.raises(OSError, match=r"^cannot listen on port 80 \(Permission denied\): .*--port$"):
        lab.open_lab(copy, 80, browser=False, outputs=False)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_no_such_port(course, copy, monkeypatch, port):
    monkeypatch.setattr(lab, "COURSE", course)
    with pytest.raises(ValueError, match=f"1 to 65535, not {port}"):
        lab.open_lab(copy, port, browser=False, outputs=False)


def test_a_free_port_is_let_go_again(port):
    lab.check_port(port)
    socket.create_server(("127.0.0.1", port)).close()


def test_without_the_lessons(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "COURSE", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere: install pefteach again"):
        lab.open_lab(tmp_path, 8888, browser=False, outputs=False)


def test_without_jupyterlab(course, copy, port, monkeypatch, tmp_path):
    block(monkeypatch, tmp_path, "jupyterlab")
    code = (
        f"import pathlib, sys; from pefteach.commands import cli, lab; lab.COURSE = pathlib.Path({str(course)!r}); "
        f"sys.argv = ['pefteach', 'lab', {str(copy)!r}, '--port', '{port}']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("pefteach: JupyterLab does not start") and "pip install jupyterlab" in done.stderr
    assert done.stderr.count("\n") == 1 and not copy.exists()


def test_the_second_start_returns_to_the_open_tabs(copy):
    from jupyterlab_server.workspaces_handler import slugify

    tabs = lab.workspaces(copy)
    tabs.mkdir(parents=True)
    (tabs / "default-37a8.jupyterlab-workspace").touch()  # of somebody who opened the copy with `jupyter lab`
    assert lab.start_page(copy) == "/lab/workspaces/pefteach/tree/index.ipynb"
    (tabs / f"{slugify('pefteach')}.jupyterlab-workspace").touch()  # the name JupyterLab itself gives it
    assert lab.start_page(copy) == "/lab/workspaces/pefteach"


def test_it_says_what_became_of_the_copy_and_serves_that(course, copy, port, monkeypatch, capsys):
    served = []
    monkeypatch.setattr(lab, "COURSE", course)
    monkeypatch.setattr(lab, "serve", lambda *arguments: served.append(arguments))
    for said in ("2 added", "up to date"):
        assert lab.open_lab(copy, port, browser=False, outputs=False) == 0
        assert capsys.readouterr().out == f"Your copy of the course is in {copy}; notebooks: {said}.\n"
    assert served == [(copy, port, False)] * 2
