"""Packing: several short examples in one row, so that little of a batch is padding.

Examples in a row must not see each other. Each counts its positions from 0, and from the jumps back to 0 transformers
derives a mask in which a token sees its own example only (for models that do not, see :func:`leaks`).
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pefteach.corpus.batches import IGNORE, Example
from pefteach.model.modes import eval_mode


def pack(examples: Sequence[Example], length: int) -> list[list[Example]]:
    """Put examples into rows of up to ``length`` tokens: the longest first, each into the fullest row with room for it.

    Raises:
        ValueError: an example longer than ``length``.
    """
    rows: list[list[Example]] = []
    spaces: list[tuple[int, int]] = []  # (free tokens, number of the row), sorted
    for example in sorted(examples, key=lambda e: -len(e.ids)):
        size = len(example.ids)
        if size > length:
            raise ValueError(f"an example of {size} tokens does not fit a row of {length}")
        place = bisect.bisect_left(spaces, (size, -1))
        if place == len(spaces):
            rows.append([])
            spaces.append((length, len(rows) - 1))
        free, row = spaces.pop(place)
        rows[row].append(example)
        bisect.insort(spaces, (free - size, row))
    return rows


def collate_rows(rows: Sequence[Sequence[Example]]) -> dict[str, Tensor]:
    """Stack rows as ``input_ids``, ``position_ids`` and ``labels``, each (B, T); padding is one more, empty example."""
    width = max(sum(len(e.ids) for e in row) for row in rows)
    ids, positions = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full_like(ids, IGNORE)
    for i, row in enumerate(rows):
        start = 0
        for example in row:
            end = start + len(example.ids)
            ids[i, start:end] = torch.tensor(example.ids)
            positions[i, start:end] = torch.arange(end - start)
            counts = torch.tensor(example.counts)
            counts[0] = False  # no token of this example comes before it
            labels[i, start:end] = ids[i, start:end].where(counts, torch.tensor(IGNORE))
            start = end
        positions[i, start:] = torch.arange(width - start)
    return {"input_ids": ids, "position_ids": positions, "labels": labels}


@torch.no_grad()
def leaks(model: Any) -> bool:
    """Whether an example that is packed behind another one can see it in this model."""
    device = next(model.parameters()).device
    rows = [[Example((first,) * 4, (True,) * 4), Example((3, 1, 2, 0), (True,) * 4)] for first in (1, 2)]
    batch = {key: value.to(device) for key, value in collate_rows(rows).items() if key != "labels"}
    with eval_mode(model):
        one, two = model(**batch, use_cache=False).logits[:, 4:].float()
    return bool((one - two).abs().max() > 0.1 * one.std())  # seeing makes a difference of several, rounding of 0.01
