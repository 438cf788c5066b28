"""Exact string tasks: the letters determine the answer, so a model that knows the skill has an accuracy of 1.00.

A prompt asks for a skill by its task token (``<reverse> k d m a e b =``) or by worked examples, without its name
(``<examples> k d m a e b = b e a m d k ; w o r c s f =``).
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable

LETTERS = string.ascii_lowercase
LENGTH = 6  # letters in every question, so that a skill is a fixed pattern of positions and symbols


def _move(letters: list[str], by: int) -> list[str]:
    return [LETTERS[(LETTERS.index(c) + by) % 26] for c in letters]


def _swap(letters: list[str]) -> list[str]:
    pairs = [letters[i : i + 2][::-1] for i in range(0, len(letters), 2)]
    return [c for pair in pairs for c in pair]


# The skills that the base is pretrained on.
SKILLS: dict[str, Callable[[list[str]], list[str]]] = {
    "copy": lambda s: s,
    "reverse": lambda s: s[::-1],
    "swap": _swap,  # neighbours change places: a b c d -> b a d c
    "rotate": lambda s: s[1:] + s[:1],  # the first goes to the end
    "next": lambda s: _move(s, 1),  # a -> b, z -> a
    "double": lambda s: [c for c in s for _ in range(2)],
    "skip": lambda s: s[::2],  # every other letter
}

# The skills that fine-tuning teaches it: a new routing, a new symbol map, and an old skill under a new name.
NEW_SKILLS: dict[str, Callable[[list[str]], list[str]]] = {
    "rotate3": lambda s: s[3:] + s[:3],
    "plus3": lambda s: _move(s, 3),
    "elicit": SKILLS["reverse"],
}


def problem(skill: str, rng: random.Random) -> tuple[str, str]:
    """A question and its answer, letters separated by spaces: ``("k d m a e b", "b e a m d k")``.

    Raises:
        KeyError: an unknown skill.
    """
    letters = rng.choices(LETTERS, k=LENGTH)
    answer = (SKILLS | NEW_SKILLS)[skill](letters)
    return " ".join(letters), " ".join(answer)


def by_token(skill: str, rng: random.Random) -> tuple[str, str]:
    """A prompt that names the skill, and its completion."""
    question, answer = problem(skill, rng)
    return f"<{skill}> {question} =", f" {answer}"


def by_examples(skill: str, rng: random.Random, shots: int = 3) -> tuple[str, str]:
    """A prompt that shows the skill ``shots`` times without naming it, and its completion."""
    solved = [f"{q} = {a} ; " for q, a in (problem(skill, rng) for _ in range(shots))]
    question, answer = problem(skill, rng)
    return "<examples> " + "".join(solved) + f"{question} =", f" {answer}"
