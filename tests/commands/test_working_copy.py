"""The learner's copy of the course: complete, renewed where untouched, and never written over, also after a kill."""

import json
import os
import platform
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from pefteach.commands import working_copy
from pefteach.commands.working_copy import RECORD, Changes, lay_course

LORA, EXERCISES = "07_lora.ipynb", "exercises/07_lora.ipynb"


def write(file: Path, *sources: str) -> None:
    """A notebook that was run: a heading, and a code cell with an output per source."""
    cells = [new_markdown_cell("# LoRA", id="heading")]
    for number, source in enumerate(sources, 1):
        ran = new_output("stream", name="stdout", text=f"{source} was run\n")
        cells.append(new_code_cell(source, id=f"cell-{number}", execution_count=number, outputs=[ran]))
    file.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), file)


def edit(file: Path, source: str = "rank = 64  # mine") -> bytes:
    notebook = nbformat.read(file, 4)
    notebook.cells[1].source = source
    nbformat.write(notebook, file)
    return file.read_bytes()


def run(file: Path) -> bytes:
    notebook = nbformat.read(file, 4)
    notebook.cells[1].execution_count = 1
    notebook.cells[1].outputs = [new_output("stream", name="stdout", text="8\n")]
    nbformat.write(notebook, file)
    return file.read_bytes()


def sources(file: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(file, 4).cells[1:]]


def files(folder: Path) -> dict[str, bytes]:
    """Every file but the record."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if name != RECORD}


@pytest.fixture
def course(tmp_path) -> Path:
    folder = tmp_path / "course"
    write(folder / "01_first.ipynb", "one")
    write(folder / LORA, "rank = 8", "rank")
    write(folder / EXERCISES, "check()")
    return folder


@pytest.fixture
def copy(tmp_path) -> Path:
    return tmp_path / "my copy"


def test_the_first_start_lays_every_notebook_as_if_it_had_never_been_run(course, copy):
    write(course / ".ipynb_checkpoints" / "07_lora-checkpoint.ipynb", "old")
    changes = lay_course(course, copy)
    assert changes == Changes(added=["01_first.ipynb", LORA, EXERCISES]) and str(changes) == "3 added"
    assert set(files(copy)) == {"01_first.ipynb", LORA, EXERCISES}
    for name in changes.added:
        notebook = nbformat.read(copy / name, 4)
        assert sources(copy / name) == sources(course / name)
        assert all(cell.execution_count is None and cell.outputs == [] for cell in notebook.cells[1:])
        assert notebook.metadata.language_info.version == platform.python_version()


def test_outputs_are_kept_if_asked_for(course, copy):
    lay_course(course, copy, outputs=True)
    assert nbformat.read(copy / LORA, 4).cells == nbformat.read(course / LORA, 4).cells
    lay_course(course, copy)
    assert nbformat.read(copy / LORA, 4).cells[1].outputs == []
    edited = edit(copy / LORA)
    assert lay_course(course, copy, outputs=True).kept == {} and (copy / LORA).read_bytes() == edited
    assert nbformat.read(copy / "01_first.ipynb", 4).cells[1].outputs


def test_a_second_start_writes_nothing(course, copy):
    lay_course(course, copy)
    times = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert str(lay_course(course, copy)) == "up to date"
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == times


def test_new_ones_are_added_untouched_ones_renewed_and_edited_ones_kept(course, copy):
    lay_course(course, copy)
    mine = edit(copy / LORA)
    write(course / "02_second.ipynb", "two")
    write(course / LORA, "rank = 16")
    write(course / EXERCISES, "check('lora_linear')")
    changes = lay_course(course, copy)
    assert changes == Changes(["02_second.ipynb"], [EXERCISES], {LORA: "07_lora.new.ipynb"})
    said = "1 added, 1 renewed, 07_lora.ipynb kept as you edited it (the new version is 07_lora.new.ipynb)"
    assert str(changes) == said
    assert (copy / LORA).read_bytes() == mine
    assert sources(copy / "07_lora.new.ipynb") == ["rank = 16"] and sources(copy / EXERCISES) == [
        "check('lora_linear')"
    ]


def test_a_notebook_that_was_run_counts_as_edited(course, copy):
    lay_course(course, copy)
    mine = run(copy / LORA)
    write(course / LORA, "rank = 16")
    assert lay_course(course, copy).kept == {LORA: "07_lora.new.ipynb"}
    assert (copy / LORA).read_bytes() == mine


def test_the_index_may_be_run_and_is_renewed_all_the_same(course, copy):
    write(course / "index.ipynb", "progress()")
    lay_course(course, copy)
    mine = run(copy / "index.ipynb")
    assert str(lay_course(course, copy)) == "up to date" and (copy / "index.ipynb").read_bytes() == mine
    write(course / "index.ipynb", "progress()", "more")
    assert lay_course(course, copy).renewed == ["index.ipynb"]
    mine = edit(copy / "index.ipynb")
    write(course / "index.ipynb", "progress()")
    assert lay_course(course, copy).kept == {"index.ipynb": "index.new.ipynb"}
    assert (copy / "index.ipynb").read_bytes() == mine


def test_a_notebook_that_was_only_saved_counts_as_untouched(course, copy):
    lay_course(course, copy)
    notebook = nbformat.read(copy / LORA, 4)
    notebook.metadata = nbformat.from_dict({"kernelspec": {"name": "other", "display_name": "Other"}, "toc": {"n": 1}})
    notebook.cells[1].metadata["jp-MarkdownHeadingCollapsed"] = True
    (copy / LORA).write_text(json.dumps(notebook))  # also formatted differently
    assert str(lay_course(course, copy)) == "up to date"
    write(course / LORA, "rank = 16")
    assert lay_course(course, copy).renewed == [LORA] and sources(copy / LORA) == ["rank = 16"]


def test_a_new_version_is_laid_once_and_later_ones_do_not_meet_edits_either(course, copy):
    lay_course(course, copy)
    mine = edit(copy / LORA)
    write(course / LORA, "rank = 16")
    lay_course(course, copy)
    assert str(lay_course(course, copy)) == "up to date"
    (copy / "07_lora.new.ipynb").unlink()
    assert str(lay_course(course, copy)) == "up to date"  # the learner has seen it, and does not want it

    write(course / LORA, "rank = 32")
    assert lay_course(course, copy).kept == {LORA: "07_lora.new.ipynb"}
    write(course / LORA, "rank = 48")  # the one beside is untouched
    assert lay_course(course, copy).kept == {LORA: "07_lora.new.ipynb"}
    assert sources(copy / "07_lora.new.ipynb") == ["rank = 48"]
    also_mine = edit(copy / "07_lora.new.ipynb")
    write(course / LORA, "rank = 64")
    assert lay_course(course, copy).kept == {LORA: "07_lora.new2.ipynb"}
    assert sources(copy / "07_lora.new2.ipynb") == ["rank = 64"]
    assert (copy / LORA).read_bytes() == mine and (copy / "07_lora.new.ipynb").read_bytes() == also_mine


def test_who_deletes_a_notebook_gets_it_back_as_it_was(course, copy):
    lay_course(course, copy)
    edit(copy / LORA)
    (copy / LORA).unlink()
    assert lay_course(course, copy).added == [LORA] and sources(copy / LORA) == ["rank = 8", "rank"]


@pytest.mark.parametrize("record", [None, "", "[]", '{"07_lora.ipynb": 3}', '{"07_lora.ipynb": ["one"]}'])
def test_without_its_record_a_copy_loses_nothing(course, copy, record):
    lay_course(course, copy)
    mine = edit(copy / LORA)
    (copy / RECORD).unlink() if record is None else (copy / RECORD).write_text(record)
    assert lay_course(course, copy).kept == {LORA: "07_lora.new.ipynb"}
    assert (copy / LORA).read_bytes() == mine
    assert str(lay_course(course, copy)) == "up to date"


def test_nothing_foreign_is_touched(course, copy):
    """A folder that is full already, with the same names for other things."""
    write(copy / "01_first.ipynb", "of another course")
    (copy / LORA).mkdir()
    (copy / LORA / "inside.txt").write_text("kept")
    (copy / "exercises").mkdir()
    (copy / EXERCISES).write_bytes(b"\x89PNG")
    (copy / "thesis.docx").write_bytes(b"years of work")
    before = files(copy)
    changes = lay_course(course, copy)
    assert changes.added == changes.renewed == [] and len(changes.kept) == 3
    assert {name: content for name, content in files(copy).items() if name in before} == before
    assert set(files(copy)) - set(before) == set(changes.kept.values())


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("a file", "a file is a file: name a folder"),
        ("a file/below", r"cannot write .*a file.* \(Not a directory\): name another folder"),
        ("full", r"cannot write .*exercises \(File exists\): name another folder"),
        ("course", "course belongs to the course itself: name another folder"),
        ("course/exercises/mine", "mine belongs to the course itself: name another folder"),
        (".", "belongs to the course itself: name another folder"),  # in a clone, the repository
    ],
)
def test_a_folder_that_cannot_hold_a_copy(course, tmp_path, folder, reason):
    (tmp_path / "a file").write_text("kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "exercises").write_text("kept")
    before = files(course)
    with pytest.raises((ValueError, OSError), match=reason) as caught:
        lay_course(course, tmp_path / folder)
    assert "\n" not in str(caught.value)
    assert files(course) == before
    assert (tmp_path / "a file").read_text() == (tmp_path / "full" / "exercises").read_text() == "kept"


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable(course, copy):
    copy.mkdir(mode=0o500)
    with pytest.raises(OSError, match=r"cannot write .* \(Permission denied\): name another folder"):
        lay_course(course, copy)


def test_a_full_disk_costs_no_notebook(course, copy, monkeypatch):
    lay_course(course, copy)
    before = files(copy)

    def full(self, *_, **__):
        self.write_bytes(b'{"cells": [')
        raise OSError(28, "No space left on device", str(self))

    write(course / LORA, "rank = 16")
    monkeypatch.setattr(working_copy.Path, "write_text", full)
    with pytest.raises(OSError, match="No space left on device"):
        lay_course(course, copy)
    monkeypatch.undo()
    assert {name: content for name, content in files(copy).items() if not name.endswith(".partial")} == before
    assert lay_course(course, copy).renewed == [LORA] and set(files(copy)) == set(before)


@pytest.mark.skipif(sys.platform == "win32", reason="forks and kills")
def test_killed_at_any_moment_no_notebook_is_half_written_and_the_next_start_completes(tmp_path):
    """A process that renews a copy is killed, each time from the same beginning and at another moment."""
    course, start, copy, rng = tmp_path / "course", tmp_path / "start", tmp_path / "copy", random.Random(0)
    lessons = [f"{number:02}_lesson.ipynb" for number in range(8)]
    for name in lessons[:-2]:
        write(course / name, *["first version"] * 40)
    lay_course(course, start)
    mine = {name: edit(start / name) for name in lessons[:2]}
    for name in lessons:
        write(course / name, *["second version"] * 40)
    shutil.copytree(start, copy)
    began = time.perf_counter()
    lay_course(course, copy)
    seconds, whole = time.perf_counter() - began, files(copy)
    first = files(start)

    partly = 0
    for _ in range(50):
        shutil.rmtree(copy)
        shutil.copytree(start, copy)
        child = os.fork()
        if not child:
            lay_course(course, copy)
            os._exit(0)
        time.sleep(rng.uniform(0, 1.2 * seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

        left = {name: content for name, content in files(copy).items() if not name.endswith(".partial")}
        assert all(content in (first.get(name), whole[name]) for name, content in left.items())
        assert first.keys() <= left.keys()
        partly += left not in (first, whole)
        lay_course(course, copy)
        assert files(copy) == whole
        assert str(lay_course(course, copy)) == "up to date"
        assert all((copy / name).read_bytes() == content for name, content in mine.items())
    assert partly > 5  # it was the middle that they were killed in
