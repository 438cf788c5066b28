"""Evaluation: how well a model predicts the tokens that count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from pefteach.corpus.batches import IGNORE, Example, collate
from pefteach.model.modes import eval_mode
from pefteach.training.progress import progress_bar


@dataclass(frozen=True)
class Score:
    """Mean loss per counted token (nats), share of tokens right, share of examples with every token right."""

    loss: float
    token_accuracy: float
    exact_match: float


@torch.no_grad()
def evaluate(model: nn.Module, data: Sequence[Example], batch_size: int = 64, progress: str | None = None) -> Score:
    """Score the model on examples, each token predicted from the right ones before it.

    An example counts as an exact match when every counted token is the most likely one, which is the same as
    greedy generation giving the whole answer.

    Args:
        progress: the label of the progress bar; None for no bar.

    Raises:
        ValueError: no examples.
    """
    if not data:
        raise ValueError("the data set is empty: there is nothing to evaluate")
    device = next(model.parameters()).device
    loss, right, counted, exact = 0.0, 0, 0, 0
    with eval_mode(model):
        for i in progress_bar(progress, iterable=range(0, len(data), batch_size)):
            batch = {key: value.to(device) for key, value in collate(data[i : i + batch_size]).items()}
            labels = batch.pop("labels")[:, 1:]  # (B, T-1)
            logits = model(**batch).logits[:, :-1]  # (B, T-1, V): position t predicts token t+1
            counts = labels != IGNORE
            hit = logits.argmax(-1) == labels
            loss += F.cross_entropy(logits[counts].float(), labels[counts], reduction="sum").item()
            right += int((hit & counts).sum())
            counted += int(counts.sum())
            exact += int((hit | ~counts).all(1).sum())
    return Score(loss / counted, right / counted, exact / len(data))
