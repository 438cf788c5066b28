"""Tell short children's stories from the hand-written plots in data/stories.

A plot is a list of passages separated by empty lines; each line of a passage is one wording of it. Two
rules fill a wording in:

* ``{slot}`` is chosen once per story: a character (``{hero}``, ``{hero.he}``, ``{hero.his}``,
  ``{hero.him}``, ``{hero.kind}``, ``{hero.He}`` …), the place (``{where}``) or one of the plot's ``words``;
* ``[this|that]`` is chosen afresh each time it appears.

Every choice is uniform, so the log-probability of the choices behind a story is known exactly. It
bounds from above how surprising the text itself can be.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from pefteach.paths import DATA

MOODS = ("happy", "sad", "scared", "angry", "proud", "curious")
ENDINGS = ("happy", "calm", "funny", "sad")
MORALS = (
    "ask for help", "share", "be kind", "be brave", "tell the truth", "be patient",
    "try again", "work together", "say sorry", "listen", "be careful", "be yourself",
)  # fmt: skip

PRONOUNS = {"he": {"he": "he", "him": "him", "his": "his"}, "she": {"he": "she", "him": "her", "his": "her"}}
SLOT, CHOICE = re.compile(r"\{([\w.]+)\}"), re.compile(r"\[([^\[\]]+)\]")


@dataclass(frozen=True)
class Plot:
    """One hand-written plot, as read from its YAML file."""

    name: str
    title: str
    cast: dict[str, str]
    where: list[str]
    mood: str
    ending: str
    moral: str
    story: list[list[str]]
    words: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Story:
    """A story, its labels, and ``nats``: the sum over all choices of the log of the number of options."""

    title: str
    text: str
    plot: str
    hero: str
    who: str
    where: str
    mood: str
    ending: str
    moral: str
    nats: float


class _Chooser:
    """Picks uniformly at random, and adds up the log of the number of options (in nats)."""

    def __init__(self, seed: int | str):
        self.random, self.nats = random.Random(seed), 0.0

    def pick(self, options):
        self.nats += math.log(len(options))
        return self.random.choice(options)


@cache
def characters(folder: Path = DATA / "stories") -> dict[str, list[tuple[str, str, str]]]:
    """The characters (name, kind, pronoun) of every pool, by the pool's name."""
    pools = yaml.safe_load((folder / "characters.yaml").read_text(encoding="utf-8"))
    return {pool: [tuple(line.split(", ")) for line in lines] for pool, lines in pools.items()}


@cache
def plots(split: str = "train", folder: Path = DATA / "stories") -> tuple[Plot, ...]:
    """All plots of a split ("train" or "heldout"), in the order of their file names.

    Raises:
        FileNotFoundError: the folder holds no plots.
    """
    files = sorted((folder / split).glob("*.yaml"))
    if not files:
        raise FileNotFoundError(f"no story plots in {folder / split}")
    return tuple(_read(f) for f in files)


def _read(file: Path) -> Plot:
    plot = yaml.safe_load(file.read_text(encoding="utf-8"))
    passages = [passage.splitlines() for passage in plot.pop("story").strip().split("\n\n")]
    return Plot(name=file.stem, story=passages, **plot)


def tell(plot: Plot, seed: int | str) -> Story:
    """Tell one story of ``plot``; the same seed tells the same story."""
    chooser = _Chooser(f"{plot.name}:{seed}")
    slots, taken = {}, set()
    for role, pool in plot.cast.items():
        name, kind, pronoun = chooser.pick([c for c in characters()[pool] if c[0] not in taken])
        taken.add(name)
        slots[role], slots[f"{role}.kind"] = name, kind
        for case, word in PRONOUNS[pronoun].items():
            slots[f"{role}.{case}"], slots[f"{role}.{case.title()}"] = word, word.title()
    slots["where"] = chooser.pick(plot.where)
    for word, options in plot.words.items():
        slots[word] = _fill(chooser.pick(options), slots, chooser)
    text = " ".join(_sentence(_fill(chooser.pick(wordings), slots, chooser)) for wordings in plot.story)
    hero = next(iter(plot.cast))
    return Story(
        title=plot.title,
        text=text,
        plot=plot.name,
        hero=slots[hero],
        who=slots[f"{hero}.kind"],
        where=slots["where"],
        mood=plot.mood,
        ending=plot.ending,
        moral=plot.moral,
        nats=chooser.nats,
    )


def _fill(wording: str, slots: dict[str, str], chooser: _Chooser) -> str:
    chosen = CHOICE.sub(lambda m: chooser.pick(m[1].split("|")), wording)
    return SLOT.sub(lambda m: slots[m[1]], chosen)


def _sentence(text: str) -> str:
    """Write a or an for "a(n)", and begin with a capital."""
    text = re.sub(r"a\(n\) (?=(\w))", lambda m: "an " if m[1] in "aeiouAEIOU" else "a ", text)
    return text[0].upper() + text[1:]


def stories(count: int, split: str = "train", seed: int = 0) -> Iterator[Story]:
    """Yield ``count`` stories, one per plot in each round, in a new random order every round."""
    order, all_plots = random.Random(f"{split}:{seed}"), plots(split)
    for i in range(count):
        if i % len(all_plots) == 0:
            round_ = order.sample(all_plots, len(all_plots))
        yield tell(round_[i % len(all_plots)], f"{seed}:{i}")
