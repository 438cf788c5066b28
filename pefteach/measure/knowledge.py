"""What the course's base knows: its skills by exact match, its stories by their loss and by what it writes itself."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable

import torch
from tokenizers import Tokenizer
from torch import nn

from pefteach.corpus.batches import encode, prompts
from pefteach.corpus.skills import SKILLS, by_examples, by_token
from pefteach.corpus.stories import CHOICE, SLOT, Plot, Story, plots, stories
from pefteach.corpus.tokenizer import EOS
from pefteach.model.generation import generate
from pefteach.training import evaluate

FRESH = 10**6  # seeds from here on are for measuring; training draws its own


def story_text(story: Story) -> str:
    """A story as the base reads and writes it: title, new line, text."""
    return f"{story.title}\n{story.text}"


def skill_accuracy(
    model: nn.Module,
    tokenizer: Tokenizer,
    form: Callable[[str, random.Random], tuple[str, str]] = by_token,
    count: int = 200,
    seed: int = FRESH,
) -> dict[str, float]:
    """The share of fresh problems that the model solves to the last letter, by skill of its pretraining.

    Args:
        form: how a problem is asked: by the skill's token, or by worked examples.
        count: problems per skill.
    """
    result = {}
    for skill in SKILLS:
        rng = random.Random(f"{seed}:{skill}")
        # After a worked example another one may follow, so only a skill asked for by its token has a certain end.
        problems = [encode(tokenizer, *form(skill, rng), end=form is by_token) for _ in range(count)]
        result[skill] = evaluate(model, problems).exact_match
    return result


def story_loss(
    model: nn.Module, tokenizer: Tokenizer, split: str, count: int = 300, seed: int = FRESH
) -> dict[str, float]:
    """The loss per token (nats) on fresh stories of a split, and a bound for it from the generator.

    A story is a function of the generator's choices, so its entropy is at most theirs: the log of the number of
    plots, plus the log of the number of options at every choice. A model that knew the plots by heart could reach
    that bound. It cannot know the plots that were held out.
    """
    fresh = list(stories(count, split, seed))
    examples = [encode(tokenizer, "", story_text(s)) for s in fresh]
    tokens = sum(sum(e.counts) for e in examples)
    bound = (sum(s.nats for s in fresh) + count * math.log(len(plots(split)))) / tokens
    return {"loss": evaluate(model, examples, batch_size=32).loss, "generator_bound": bound}


def story_quality(model: nn.Module, tokenizer: Tokenizer, count: int = 60, seed: int = 0) -> dict[str, float]:
    """Let the model continue stories from their title and first 20 words; see which end, and which stay on their plot.

    ``on_plot`` is the share of what it wrote (by characters) that is a wording of the story's own plot.
    ``hero_kept`` is the share of continuations that name the hero again, ``hero_kept_as_told`` the same share in the
    stories as the generator tells them.
    """
    fresh = list(stories(count, seed=FRESH + seed))
    starts = [f"{s.title}\n" + " ".join(s.text.split()[:20]) for s in fresh]
    batch = prompts(tokenizer, starts)
    eos, width = tokenizer.token_to_id(EOS), batch["input_ids"].shape[1]
    ids = generate(
        model,
        batch["input_ids"],
        220,
        attention_mask=batch["attention_mask"],
        temperature=0.7,
        eos_token_id=eos,
        seed=seed,
    )
    rests = [tokenizer.decode(row[width:].tolist()) for row in ids]
    by_name = {p.name: p for p in plots()}
    share = lambda hits: sum(hits) / count
    return {
        "ended": share(bool((row[width:] == eos).any()) for row in ids),
        "on_plot": share(on_plot(rest, by_name[s.plot]) for s, rest in zip(fresh, rests)),
        "hero_kept": share(s.hero in rest for s, rest in zip(fresh, rests)),
        "hero_kept_as_told": share(s.hero in " ".join(s.text.split()[20:]) for s in fresh),
    }


def on_plot(text: str, plot: Plot) -> float:
    """The share of the characters of ``text`` that lie inside a wording of the plot, whatever its slots and choices."""
    inside = torch.zeros(len(text), dtype=torch.bool)
    for passage in plot.story:
        for wording in passage:
            for sentence in re.split(r"(?<=[.!?])\"? ", wording):
                for match in _pattern(sentence).finditer(text):
                    inside[match.start() : match.end()] = True
    return inside.float().mean().item() if text else 0.0


def _pattern(sentence: str) -> re.Pattern[str]:
    """A regular expression for a sentence of a wording: choices are alternatives, a slot is up to eight words."""
    pieces = re.split(r"(\[[^\]]+\]|\{[\w.]+\}|a\(n\))", sentence)
    return re.compile("".join(_piece(piece) for piece in pieces), re.IGNORECASE)


def _piece(piece: str) -> str:
    if CHOICE.fullmatch(piece):
        return "(?:" + "|".join(_pattern(option).pattern for option in piece[1:-1].split("|")) + ")"
    if SLOT.fullmatch(piece):
        return r"\S+(?: \S+){0,7}?"
    return "an?" if piece == "a(n)" else re.escape(piece)


def examine_base(model: nn.Module, tokenizer: Tokenizer) -> dict:
    """All the figures of the model card, by name."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "skills_by_token": skill_accuracy(model, tokenizer, by_token),
        "skills_by_examples": skill_accuracy(model, tokenizer, by_examples),
        "stories": story_loss(model, tokenizer, "train"),
        "heldout_plots": story_loss(model, tokenizer, "heldout"),
        "written": story_quality(model, tokenizer),
    }
