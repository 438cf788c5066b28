"""``pefteach mutants`` starts a process in the folder of the tests, and says so where there is none."""

from types import SimpleNamespace

import pytest
import typer

from pefteach import paths
from pefteach.commands import mutants as command


@pytest.mark.parametrize("json, said", [(False, []), (True, ["--json"])])
@pytest.mark.parametrize("status", [0, 1])
def test_passes_on_what_it_is_told_and_how_it_ended(json, said, status, monkeypatch):
    started = []

    def run(arguments, cwd, env):
        started.append((arguments[1:], cwd, env["TRITON_INTERPRET"]))
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(command.subprocess, "run", run)
    with pytest.raises(typer.Exit) as end:
        command.mutants(json)
    assert end.value.exit_code == status
    assert started == [(["-m", "mutants", *said], paths.ROOT / "tests", "1")]


def test_is_refused_outside_a_clone(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="in the repository's tests/: run this from a clone"):
        command.mutants()
