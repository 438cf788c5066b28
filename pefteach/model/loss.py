"""The loss that a language model is trained with."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from pefteach.corpus.batches import IGNORE


def next_token_loss(logits: Tensor, labels: Tensor, total_tokens: int | None = None) -> Tensor:
    """Mean cross entropy of the tokens that count. logits (B, T, V), labels (B, T) with -100 to skip.

    Args:
        total_tokens: what to divide the sum by if these rows are part of a batch; by default the tokens counted here.
    """
    # Shift the labels, not the logits: a slice of the logits would copy all (B, T, V) numbers in the backward pass.
    wanted = F.pad(labels[:, 1:], (0, 1), value=IGNORE).flatten()  # (B·T,): the last position of a row predicts nothing
    counted = (wanted != IGNORE).nonzero().squeeze(1)
    total = F.cross_entropy(logits.flatten(0, 1).index_select(0, counted).float(), wanted[counted], reduction="sum")
    return total / (len(counted) if total_tokens is None else total_tokens)
