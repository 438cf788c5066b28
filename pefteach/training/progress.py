"""Progress bars."""

from __future__ import annotations

from typing import Any

import torch
from tqdm.auto import tqdm

from pefteach.training.history import History
from pefteach.training.peak import peak_memory


def progress_bar(label: str | None, **settings: Any) -> tqdm:
    """A progress bar, or a hidden one if there is no label. TQDM_DISABLE=1 in the environment hides them all."""
    return tqdm(disable=True, **settings) if label is None else tqdm(desc=label, leave=False, **settings)


def show_step(bar: tqdm, history: History, device: torch.device) -> None:
    """Move the bar on by the last step, with its loss, the speed and the peak memory beside it."""
    row = history.rows[-1]
    speed = row["tokens"] * len(history.rows) / row["seconds"]
    memory = f"{peak_memory(device) / 2**30:.1f} GiB"
    bar.set_postfix(loss=f"{row['loss']:.3f}", tokens_per_s=f"{speed:,.0f}", memory=memory, refresh=False)
    bar.update()  # draws both, though not at every step
