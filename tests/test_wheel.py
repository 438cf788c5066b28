"""What a wheel holds is enough: installed alone, in an empty folder, `pefteach lab` opens the course and it runs."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest
from jupyter_client import BlockingKernelClient

from pefteach.paths import COURSE, ROOT

LARGEST = 15e6  # bytes
PIP = (sys.executable, "-m", "pip")
JUPYTER = Path(sys.prefix) / "share" / "jupyter"


def run(*command: object, **how) -> str:
    """What a command that must succeed prints."""
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    return next(folder.glob("pefteach-*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """The scripts of an environment that has pefteach from the wheel, and the rest from where the tests run."""
    home = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", home)
    scripts, packages = (Path(sysconfig.get_path(kind, "venv", {"base": home})) for kind in ("scripts", "purelib"))
    run(*PIP, "--python", scripts / "python", "install", "--quiet", "--no-deps", wheel)
    (packages / "rest.pth").write_text(sysconfig.get_path("purelib"))  # .pth files there, such as ours, do not count
    return scripts


@pytest.fixture
def learner(tmp_path) -> dict[str, str]:
    """The environment variables of somebody who has an empty home, and does not know the repository."""
    (tmp_path / "home").mkdir()
    here = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        here[name] = str(tmp_path / "home")
    return here | {"JUPYTERLAB_DIR": str(JUPYTER / "lab"), "JUPYTER_PATH": str(JUPYTER)}


@pytest.fixture
def empty(tmp_path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


@pytest.fixture
def address(environment, learner, empty):
    """Where ``pefteach lab``, started in an empty folder, says that the course is."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [environment / "pefteach", "lab", "--no-browser", "--port", str(port)],
        cwd=empty, env=learner, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
    server.send_signal(signal.SIGINT)
    server.wait(60)


def ask(address: str, path: str, data: dict | None = None) -> dict:
    """The answer of the server's interface, once there is one."""
    server, token = re.match(r"(http://[^/]+).*token=(\w+)", address).groups()
    request = urllib.request.Request(f"{server}/api/{path}", headers={"Authorization": f"token {token}"})
    for _ in range(300):
        try:
            with urllib.request.urlopen(request, data and json.dumps(data).encode(), timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"no answer from {address}")


def test_it_holds_what_the_repository_tracks_and_is_small(wheel):
    assert wheel.stat().st_size < LARGEST
    tracked = run("git", "ls-files", "pefteach", "data", "course", cwd=ROOT).split()
    wanted = {name if name.startswith("pefteach/") else f"pefteach/{name}" for name in tracked}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == wanted


def test_in_an_empty_folder_the_course_opens_and_lesson_1_runs(environment, learner, empty, address):
    assert "/tree/index.ipynb?" in address
    listed = {item["name"] for item in ask(address, "contents/")["content"]}
    assert listed == {path.name for path in COURSE.iterdir() if not path.name.startswith(".")}
    lesson = ask(address, "contents/01_transformer_review.ipynb")["content"]
    code = [cell["source"] for cell in lesson["cells"] if cell["cell_type"] == "code"]
    until = next(number for number, source in enumerate(code) if "load_base()" in source)

    kernel = BlockingKernelClient()
    name = ask(address, "kernels", {"name": "python3"})["id"]
    kernel.load_connection_file(f"{learner['JUPYTER_RUNTIME_DIR']}/kernel-{name}.json")
    kernel.start_channels()
    said = []
    listen = lambda message: said.append(message["content"].get("text", ""))
    for source in [*code[: until + 1], "import pefteach; print('It is', pefteach.__file__)"]:
        reply = kernel.execute_interactive(source, timeout=300, output_hook=listen)["content"]
        assert reply["status"] == "ok", reply
    kernel.stop_channels()
    assert Path("".join(said).rpartition("It is ")[2].strip()).is_relative_to(environment.parent)


def test_the_doctor_finds_all_there(environment, learner, empty):
    patient = "from pefteach.commands import doctor; doctor.SECONDS = 600; doctor.print_report()"
    said = run(environment / "python", "-c", patient, cwd=empty, env=learner)
    assert "The course can run here." in said and str(environment.parent) in said, said


@pytest.mark.parametrize("command", ["build --check", "mutants", "card", "parity --write", "bench gpu --write"])
def test_what_needs_the_repository_says_so(environment, learner, empty, command):
    done = subprocess.run(
        [environment / "pefteach", *command.split()], cwd=empty, env=learner, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    assert "clone" in done.stderr and done.stderr.count("\n") == 1
