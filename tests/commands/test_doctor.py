"""The report: right about what works, clear about what does not, and never brought down by a broken package."""

import importlib.metadata

import pytest

from fakes import block, replace
from pefteach.commands import doctor
from pefteach.commands.doctor import CHECKS, Check, print_report, run

PYTHON = next(check for check in CHECKS if check.probe is doctor.python)
NBGRADER = next(check for check in CHECKS if check.probe is doctor.nbgrader)
BITSANDBYTES = next(check for check in CHECKS if check.probe is doctor.bitsandbytes)


def test_what_works_says_what_it_found():
    works, said = run(PYTHON)
    assert works and said.startswith("3.")


@pytest.mark.parametrize(
    ("probe", "package"),
    [
        (doctor.torch, "torch"),
        (doctor.transformers, "transformers"),
        (doctor.peft, "peft"),
        (doctor.jupyterlab, "jupyterlab"),
        (doctor.jupyterlab, "ipykernel"),
        (doctor.explorers, "ipywidgets"),
        (doctor.explorers, "jupyterlab_widgets"),
        (doctor.explorers, "matplotlib"),
        (doctor.base, "tokenizers"),
        (doctor.bitsandbytes, "bitsandbytes"),
        (doctor.nbgrader, "nbgrader"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, tmp_path, probe, package):
    block(monkeypatch, tmp_path, package)
    works, said = run(next(check for check in CHECKS if check.probe is probe))
    assert not works and f"No module named '{package}'" in said


@pytest.mark.parametrize("found", ["4.49.0", "5.0.1"])
def test_a_package_too_old_or_too_new_is_named(monkeypatch, found):
    assert "none too old" in doctor.versions()
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: found if name == "transformers" else real(name))
    with pytest.raises(SystemExit, match=rf"^transformers is {found}, and the course needs transformers\S*>=4.56"):
        doctor.versions()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('compiled for another processor')", "compiled for another processor"),
        ("import os; os.abort()", "it crashed Python (signal 6)"),
        ("import sys; sys.exit(3)", "it gave no reason"),
        ("", "AttributeError"),  # imports, but holds nothing
    ],
)
def test_a_broken_package_costs_one_line(monkeypatch, tmp_path, code, reason):
    replace(monkeypatch, tmp_path, "nbgrader", code)
    works, said = run(NBGRADER)
    assert not works and reason in said and "\n" not in said


def test_a_package_that_imports_but_computes_wrongly_is_not_ok(monkeypatch, tmp_path):
    replace(
        monkeypatch,
        tmp_path,
        "bitsandbytes",
        "import torch; __version__ = '0'\n"
        "class functional:\n"
        "    quantize_4bit = staticmethod(lambda weight, quant_type: (weight, None))\n"
        "    dequantize_4bit = staticmethod(lambda packed, scales: packed + 1)\n",
    )
    works, said = run(BITSANDBYTES)
    assert not works and "wrong values" in said


def test_a_package_that_hangs_is_not_waited_for(monkeypatch, tmp_path):
    replace(monkeypatch, tmp_path, "nbgrader", "import time; time.sleep(600)")
    monkeypatch.setattr(doctor, "SECONDS", 1)
    assert run(NBGRADER) == (False, "no answer within 1 seconds")


@pytest.mark.parametrize(
    ("needed", "status", "word", "verdict"),
    [(True, 1, "[!] missing", "cannot run here yet: see nbgrader."), (False, 0, "[-] optional", "can run here.")],
)
def test_only_what_is_needed_decides(monkeypatch, tmp_path, capsys, needed, status, word, verdict):
    block(monkeypatch, tmp_path, "nbgrader")
    monkeypatch.setattr(doctor, "CHECKS", (PYTHON, Check("nbgrader", doctor.nbgrader, "the remedy", needed)))
    assert print_report() == status
    said = capsys.readouterr().out
    assert word in said and "the remedy" in said and verdict in said
    assert said.count("[+] ok") == 1


def test_the_whole_report_has_a_line_per_check_and_finds_no_fault_where_the_tests_run(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "SECONDS", 600)  # what is right on a busy machine is right
    status = print_report()
    said = capsys.readouterr().out
    assert status == 0 and "[!] missing" not in said, said
    for check in CHECKS:
        assert sum(check.name == line[14 : 14 + len(check.name)] for line in said.splitlines()) == 1, check.name
