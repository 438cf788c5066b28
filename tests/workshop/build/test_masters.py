"""The notebooks: masters that nbgrader understands, student versions that give nothing away, and both run."""

import copy
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from typer.testing import CliRunner

from pefteach.commands.cli import app
from pefteach.lessons.catalogue import LESSONS
from pefteach.paths import COURSE
from pefteach.workshop.build.masters import HIDDEN_POINTS, VISIBLE_POINTS, make_master, write_masters
from pefteach.workshop.build.students import student_version

pytest.importorskip("nbgrader", reason="the student versions are made by nbgrader (extra 'grade')")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(params=LESSONS, ids=[lesson.name for lesson in LESSONS])
def lesson(request):
    return request.param


def test_masters_are_in_nbgraders_source_format(lesson):
    from nbgrader.nbgraderformat import MetadataValidator

    master = make_master(lesson)
    nbformat.validate(master)
    MetadataValidator().validate_nb(master)
    known = [cell.metadata.nbgrader for cell in master.cells if "nbgrader" in cell.metadata]
    assert len({k.grade_id for k in known}) == len(known)
    assert sum(k.get("points", 0) for k in known) == len(lesson.exercises) * (VISIBLE_POINTS + HIDDEN_POINTS)
    assert sum("BEGIN HIDDEN TESTS" in cell.source for cell in master.cells) == len(lesson.exercises) >= 4
    assert 30 <= sum(exercise.minutes for exercise in lesson.exercises) <= 60


def test_student_versions_hold_no_solution_and_no_hidden_test(lesson):
    file = COURSE / "exercises" / f"{lesson.name}.ipynb"
    release = nbformat.read(file, as_version=4)
    text = file.read_text(encoding="utf-8")
    assert "SOLUTION" not in text and "HIDDEN" not in text and "seed=seed" not in text
    cells = {cell.metadata.nbgrader.grade_id: cell for cell in release.cells if "nbgrader" in cell.metadata}
    for exercise in lesson.exercises:
        assert cells[exercise.name].source == exercise.stub.strip(), "our stub is nbgrader's"
        assert cells[f"{exercise.name}-check"].metadata.editable is False
    assert all(not cell.outputs and cell.execution_count is None for cell in release.cells if cell.cell_type == "code")


def test_a_leaking_release_would_be_seen(lesson):
    master = make_master(lesson)
    assert "BEGIN SOLUTION" in str(master) and "HIDDEN" in str(master), "the words the test above looks for"
    assert "SOLUTION" not in str(student_version(master)) and "SOLUTION" in str(master), "the master is left alone"


def run(notebook, tmp_path):
    """Run all cells in a kernel; the graded cells by name."""
    environment = ENVIRONMENT | {"PEFTEACH_PROGRESS": str(tmp_path / "progress.json"), "IPYTHONDIR": str(tmp_path)}
    client = NotebookClient(notebook, timeout=600, allow_errors=True, kernel_name="python3")
    client.execute(env=environment)
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def said(cell):
    return "\n".join(output.data["text/plain"] for output in cell.outputs if "data" in output)


def test_with_the_answers_every_check_is_right(lesson, tmp_path):
    cells = run(make_master(lesson), tmp_path)
    assert [id for id, cell in cells.items() if any(o.output_type in ("error", "stream") for o in cell.outputs)] == []
    for exercise in lesson.exercises:
        assert said(cells[f"{exercise.name}-check"]).startswith("✓ Right")
    assert f"{len(lesson.exercises)} of " in said(cells["progress"])


def test_with_the_stubs_nothing_is_attempted_and_only_the_graded_cells_end_with_an_error(lesson, tmp_path):
    cells = run(student_version(make_master(lesson)), tmp_path)
    failed = {id: [o.ename for o in cell.outputs if o.output_type == "error"] for id, cell in cells.items()}
    graded = {f"{exercise.name}-check" for exercise in lesson.exercises}
    assert {id: names for id, names in failed.items() if names} == {id: ["AssertionError"] for id in graded}
    for id in graded:
        assert said(cells[id]).startswith("… Not attempted")
    assert "0 of " in said(cells["progress"])


def test_the_command_writes_nbgraders_folders_and_leaves_them_alone_the_next_time(tmp_path):
    command = ["build", "--masters", str(tmp_path / "source")]
    first, again = CliRunner().invoke(app, command), CliRunner().invoke(app, command)
    assert first.exit_code == again.exit_code == 0 and "up to date" in again.output
    files = sorted((tmp_path / "source").rglob("*.ipynb"))
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [
        f"source/{lesson.name}/{lesson.name}.ipynb" for lesson in LESSONS
    ]
    assert [nbformat.read(file, as_version=4) for file in files] == [make_master(lesson) for lesson in LESSONS]


def test_named_masters_only(tmp_path):
    assert CliRunner().invoke(app, ["build", "07_lora", "--masters", str(tmp_path)]).exit_code == 0
    assert [file.name for file in tmp_path.rglob("*.ipynb")] == ["07_lora.ipynb"]


@pytest.mark.parametrize("folder", ["", "exercises", "exercises/../source"])
def test_no_master_is_written_into_the_course(folder, tmp_path):
    (tmp_path / "link").symlink_to(COURSE)
    before = sorted(COURSE.rglob("*"))
    for course in (COURSE, tmp_path / "link"):
        with pytest.raises(ValueError, match="inside the course"):
            write_masters(course / folder, LESSONS)
    assert sorted(COURSE.rglob("*")) == before


def test_an_edited_master_is_not_overwritten_and_nothing_else_is_written(tmp_path):
    write_masters(tmp_path, LESSONS[:1])
    (edited,) = tmp_path.rglob("*.ipynb")
    edited.write_text(edited.read_text().replace("LoRA", "lora").replace("the", "teh"))
    with pytest.raises(ValueError, match=rf"{LESSONS[0].name}.ipynb would be overwritten"):
        write_masters(tmp_path, LESSONS)
    assert list(tmp_path.rglob("*.ipynb")) == [edited] and "teh" in edited.read_text()


def test_checking_and_masters_do_not_go_together(tmp_path):
    done = CliRunner().invoke(app, ["build", "--check", "--masters", str(tmp_path)])
    assert isinstance(done.exception, ValueError) and "--masters" in str(done.exception)


def test_a_broken_master_is_seen():
    from nbgrader.nbgraderformat import MetadataValidator, ValidationError

    master = make_master(LESSONS[0])
    next(cell for cell in master.cells if cell.id == "attention").metadata.nbgrader.grade_id = "setup"
    next(cell for cell in master.cells if cell.id == "split_heads").metadata.nbgrader.grade_id = "setup"
    with pytest.raises(ValidationError):
        MetadataValidator().validate_nb(master)


def test_without_nbgrader_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nbgrader", None)
    with pytest.raises(ValueError, match=r"pefteach\[grade\]"):
        student_version(make_master(LESSONS[0]))


def test_nbgrader_itself_makes_the_same_release_and_gives_the_marks(tmp_path):
    """The whole way with nbgrader's own commands: one right submission, and one with a mistake and stubs."""
    lesson = LESSONS[-1]
    name, points = lesson.name, VISIBLE_POINTS + HIDDEN_POINTS
    (tmp_path / "nbgrader_config.py").write_text(
        "c = get_config()\nc.CourseDirectory.course_id = 'test'\nc.ExecutePreprocessor.shutdown_kernel = 'immediate'\n"
    )
    write_masters(tmp_path / "source", [lesson])
    nbgrader(tmp_path, "generate_assignment", name)
    theirs = nbformat.read(tmp_path / "release" / name / f"{name}.ipynb", as_version=4)
    ours = student_version(make_master(lesson))
    assert [(c.source, c.metadata) for c in theirs.cells] == [(c.source, c.metadata) for c in ours.cells]

    mistake = lesson.exercises[0].mistakes[0]
    answers = {
        "right": {exercise.name: exercise.accepted[0] for exercise in lesson.exercises},
        "wrong": {lesson.exercises[0].name: lesson.exercises[0].wrong_answer(mistake),
                  lesson.exercises[1].name: lesson.exercises[1].accepted[1]},
    }  # fmt: skip
    for student, sources in answers.items():
        notebook = copy.deepcopy(ours)
        for cell in notebook.cells:
            cell.source = sources.get(cell.id, cell.source)
        folder = tmp_path / "submitted" / student / name
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / f"{name}.ipynb")
    nbgrader(tmp_path, "autograde", name)

    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db") as book:
        scores = {student: book.find_submission(name, student).score for student in answers}
    assert scores == {"right": points * len(lesson.exercises), "wrong": points}
    graded = (tmp_path / "autograded" / "wrong" / name / f"{name}.ipynb").read_text(encoding="utf-8")
    assert mistake.message.split(".")[0] in graded, "the feedback names the mistake"


def nbgrader(folder, *command):
    # nbgrader runs alembic by its name, so that the environment's own folder has to be on the PATH.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = ENVIRONMENT | {"PATH": path, "PEFTEACH_PROGRESS": str(folder / "progress.json")}
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert shutil.which("alembic", path=path)
