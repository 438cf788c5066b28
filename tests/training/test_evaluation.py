"""Evaluation, counted by hand."""

import pytest
import torch

from pefteach.training import evaluate


def test_evaluate_counts_by_hand(model, examples):
    score = evaluate(model, examples, batch_size=3)
    loss = hits = tokens = exact = 0
    for example in examples:
        scores = model(torch.tensor([example.ids])).logits[0].log_softmax(-1)
        wrong = 0
        for t in range(1, len(example.ids)):
            if example.counts[t]:
                loss -= scores[t - 1, example.ids[t]].item()
                tokens += 1
                wrong += int(scores[t - 1].argmax()) != example.ids[t]
        hits, exact = hits - wrong, exact + (wrong == 0)
    assert score.loss == pytest.approx(loss / tokens, rel=1e-5)
    assert score.token_accuracy == pytest.approx(1 + hits / tokens)
    assert score.exact_match == exact / len(examples)
