"""Forgetting: what a model knew before, and what it knows after. Accuracy per skill, and loss on fresh stories."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import nn

from pefteach.measure.knowledge import skill_accuracy, story_loss
from pefteach.model.modules import base_parameters


@dataclass(frozen=True)
class Knowledge:
    """What an examination found.

    Attributes:
        skills: the share of problems solved to the last letter, by skill.
        stories: the loss on stories, in nats per token.
    """

    skills: dict[str, float]
    stories: float

    @property
    def mean(self) -> float:
        """Mean accuracy over the skills."""
        return sum(self.skills.values()) / len(self.skills)


def examine(
    model: nn.Module, tokenizer: Tokenizer, problems: int = 50, stories: int = 30, seed: int = 10**6
) -> Knowledge:
    """Find out what the model knows as it is now, with whatever adapter is active.

    Args:
        problems: per skill.
        stories: how many, generated anew from the plots of pretraining.
        seed: the same seed asks the same questions, so that before and after can be compared.
    """
    return Knowledge(
        skill_accuracy(model, tokenizer, count=problems, seed=seed),
        story_loss(model, tokenizer, "train", count=stories, seed=seed)["loss"],
    )


def forgotten(before: Knowledge, after: Knowledge) -> Knowledge:
    """The accuracy that each skill lost and the loss that stories gained; below zero where the model got better."""
    lost = {skill: before.skills[skill] - after.skills[skill] for skill in before.skills}
    return Knowledge(lost, after.stories - before.stories)


def fingerprints(model: nn.Module) -> dict[str, str]:
    """The SHA-256 of every tensor of the base, by name, whatever is attached: equal means equal to the last bit."""
    return {
        name: hashlib.sha256(p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, p in base_parameters(model).items()
    }
