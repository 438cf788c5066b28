"""``pefteach checks`` reports every answer that does not get the verdict it must get."""

import dataclasses
import json
from types import SimpleNamespace

from pefteach.exercises.exercise import Mistake
from pefteach.lessons.lora.exercises.lora_forward import EXERCISE as LORA_FORWARD
from pefteach.workshop import checks as report


def test_a_mistake_that_inputs_cannot_tell_is_reported():
    invisible = Mistake("none at all", {"return frozen +": "return 1 * frozen +"}, "This is no mistake.")
    exercise = dataclasses.replace(LORA_FORWARD, mistakes=(*LORA_FORWARD.mistakes, invisible))
    failed = [row for row in report.check_rows(exercise) if not row["holds"]]
    assert [(row["name"], row["ours"]) for row in failed] == [("lora_forward: none at all", "right")]


def test_a_mistake_that_shadows_another_is_reported():
    twin = dataclasses.replace(LORA_FORWARD.mistakes[0], name="twin", message="The same again.")
    exercise = dataclasses.replace(LORA_FORWARD, mistakes=(*LORA_FORWARD.mistakes, twin))
    failed = [row for row in report.check_rows(exercise) if not row["holds"]]
    assert [(row["name"], row["ours"]) for row in failed] == [("lora_forward: twin", "wrong: no scale")]


def test_a_wrong_answer_among_the_accepted_is_reported():
    wrong = LORA_FORWARD.wrong_answer(LORA_FORWARD.mistakes[0])
    exercise = dataclasses.replace(LORA_FORWARD, accepted=(*LORA_FORWARD.accepted, wrong))
    failed = [row["name"] for row in report.check_rows(exercise) if not row["holds"]]
    assert failed == ["lora_forward: right answer 4"]


def test_sizes_at_which_a_mistake_hides_are_reported():
    """alpha = rank makes a forgotten scale invisible: the reason for the rule about sizes."""

    def lazy(draw):
        for case in LORA_FORWARD.inputs(draw):
            yield case | {"alpha": len(case["lora_A"])}

    exercise = dataclasses.replace(LORA_FORWARD, inputs=lazy)
    failed = [row["name"] for row in report.check_rows(exercise) if not row["holds"]]
    assert "lora_forward: no scale" in failed


def test_the_command_prints_rows_and_its_status_follows_them(capsys, monkeypatch):
    lesson = SimpleNamespace(name="07_lora", exercises=(LORA_FORWARD,))
    monkeypatch.setattr(report, "LESSONS", (lesson,))
    assert report.print_checks() == 0
    assert "lora_forward" in capsys.readouterr().out
    assert report.print_checks(json=True) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {"name", "ours", "peer", "ratio", "bar", "holds"} <= rows[0].keys()
    broken = dataclasses.replace(LORA_FORWARD, accepted=(LORA_FORWARD.stub,))
    lesson.exercises = (broken,)
    assert report.print_checks() == 1
    assert "right answer 1" in capsys.readouterr().out
