"""The gradients of one batch, in parts if it is too large to go through the model at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pefteach.corpus.batches import IGNORE
from pefteach.methods.core.adapter import Adapter
from pefteach.model.loss import next_token_loss
from pefteach.training.batches import Batch
from pefteach.training.processes import OneProcess


def compute_gradients(
    forward: nn.Module, batch: Batch, adapters: Sequence[Adapter], accumulate: int, processes: OneProcess
) -> float:
    """Add up the gradients of a batch's mean loss and of the adapters' penalties.

    Every part's loss is divided by the tokens that count in the *whole* batch, so that the parts add up to its mean.

    Args:
        forward: what to call for a forward pass.
        accumulate: the number of parts that each process takes its rows in.

    Returns:
        What this process's rows add to the mean loss, in nats per token; the processes' sum is the loss.
    """
    total_tokens, own_loss = int((batch["labels"][:, 1:] != IGNORE).sum()), 0.0
    for number, part in enumerate(processes.split_batch(batch, accumulate), 1):
        labels = part.pop("labels")
        with processes.sync_gradients(forward, now=number == accumulate):
            loss = next_token_loss(forward(**part).logits, labels, total_tokens=total_tokens)
            penalty = sum(adapter.penalty() for adapter in adapters) / accumulate
            (loss * processes.count + penalty).backward()  # processes average their gradients; losses add up
        own_loss += loss.item()
    return own_loss
