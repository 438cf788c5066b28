"""The loss: what counts, and that padding does not."""

import pytest
import torch
from torch import nn

from pefteach.corpus.batches import IGNORE, Example, collate
from pefteach.model.loss import next_token_loss
from pefteach.training import evaluate


def test_only_what_counts_counts():
    logits = torch.randn(2, 6, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[IGNORE, IGNORE, 4, 5, 6, IGNORE], [IGNORE, 7, 8, IGNORE, IGNORE, IGNORE]])
    pairs = [(0, 1, 4), (0, 2, 5), (0, 3, 6), (1, 0, 7), (1, 1, 8)]  # row, position that predicts, token
    expected = -sum(logits[b, t].log_softmax(-1)[v] for b, t, v in pairs) / 5
    assert next_token_loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    flat = lambda x, y: nn.functional.cross_entropy(x.flatten(0, 1), y.flatten(), ignore_index=IGNORE).item()
    assert flat(logits, labels) != pytest.approx(expected.item(), rel=1e-3), "the shift would go unnoticed"
    everything = labels.where(labels != IGNORE, torch.tensor(0))
    assert flat(logits[:, :-1], everything[:, 1:]) != pytest.approx(expected.item(), rel=1e-3)


def test_padding_changes_nothing(model):
    short, long = (
        Example((3, 4, 5, 6), (False, False, True, True)),
        Example(tuple(range(3, 12)), (False,) * 8 + (True,)),
    )
    alone = evaluate(model, [short])
    for side in ("right", "left"):
        batch = collate([short, long], side=side)
        labels = batch.pop("labels")
        labels[1] = IGNORE
        assert next_token_loss(model(**batch).logits, labels).item() == pytest.approx(alone.loss, abs=1e-5)
