"""Batches by number, so that a resumed run gets the ones that it would have got."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pefteach.corpus.batches import collate

Batch = dict[str, Tensor]


def batches_of(
    data: Sequence[Any], batch_size: int, seed: int, collate: Callable[[list], Batch] = collate
) -> Callable[[int], Batch]:
    """A function from the step number to its batch: each round is shuffled anew, and the same for the same seed.

    Args:
        collate: makes a batch of a list of ``data``'s items.

    Raises:
        ValueError: no data.
    """
    if not len(data):
        raise ValueError("the data set is empty: there is nothing to train on")
    per_round = max(1, len(data) // batch_size)

    def batch(step: int) -> Batch:
        round_, place = divmod(step, per_round)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed * 100_003 + round_)).tolist()
        return collate([data[i] for i in order[place * batch_size : (place + 1) * batch_size]])

    return batch
