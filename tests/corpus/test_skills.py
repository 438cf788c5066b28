"""Every skill does what its name says, in both forms."""

import random

import pytest

from pefteach.corpus.skills import LENGTH, NEW_SKILLS, SKILLS, by_examples, by_token, problem

ANSWERS = {
    "copy": "a b c d y z",
    "reverse": "z y d c b a",
    "swap": "b a d c z y",
    "rotate": "b c d y z a",
    "next": "b c d e z a",
    "double": "a a b b c c d d y y z z",
    "skip": "a c y",
    "rotate3": "d y z a b c",
    "plus3": "d e f g b c",
    "elicit": "z y d c b a",
}


@pytest.mark.parametrize("skill", SKILLS | NEW_SKILLS)
def test_answers(skill):
    assert " ".join((SKILLS | NEW_SKILLS)[skill](["a", "b", "c", "d", "y", "z"])) == ANSWERS[skill]


def test_every_skill_is_told_from_every_other():
    assert len(SKILLS) >= 6 and len({ANSWERS[s] for s in SKILLS}) == len(SKILLS)


@pytest.mark.parametrize("skill", SKILLS)
def test_the_two_forms_ask_for_the_same(skill):
    question, answer = by_token(skill, random.Random(3))
    assert question.startswith(f"<{skill}> ") and question.endswith(" =") and len(question.split()) == LENGTH + 2
    assert answer[1:].split() == SKILLS[skill](question.split()[1:-1])
    shown, asked = by_examples(skill, random.Random(4), shots=3)
    assert skill not in shown and shown.startswith("<examples> ") and shown.count(";") == 3
    *solved, last = shown.removeprefix("<examples> ").split(" ; ")
    for line in solved:
        q, a = line.split(" = ")
        assert a.split() == SKILLS[skill](q.split())
    assert asked.split() == SKILLS[skill](last.removesuffix(" =").split())


def test_unknown_skill():
    with pytest.raises(KeyError):
        problem("juggle", random.Random(0))
