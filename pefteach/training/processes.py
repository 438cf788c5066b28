"""One training run in several processes, each with its own rows of every batch.

:func:`~pefteach.training.loop.fit` is written against :class:`OneProcess`. :class:`Accelerated` does the same on the
processes that ``accelerate launch`` started. A batch is the same at every number of processes: each takes every n-th
row, weighs its loss by the tokens it holds, and the gradients are averaged. So the loss curve is the same, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


class OneProcess:
    """A run in this process alone."""

    count, index = 1, 0

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and draws progress bars."""
        return self.index == 0

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        """Return the module to call for a forward pass."""
        return model

    def split_batch(self, batch: dict[str, Tensor], accumulate: int) -> Iterator[dict[str, Tensor]]:
        """Yield this process's rows of a batch (B, T), in ``accumulate`` parts.

        Raises:
            ValueError: fewer rows than parts.
        """
        rows, parts = len(batch["labels"]), self.count * accumulate
        if rows < parts:
            raise ValueError(
                f"a batch of {rows} rows cannot be shared by {self.count} processes in {accumulate} parts each: "
                "make batch_size larger"
            )
        for part in range(accumulate):
            yield {key: value[self.index + self.count * part :: parts] for key, value in batch.items()}

    def sync_gradients(self, model: nn.Module, now: bool) -> AbstractContextManager:
        """A context in which a backward pass averages its gradients with the other processes' only if ``now``."""
        return nullcontext()

    def sum_over_processes(self, *values: float) -> list[float]:
        """The sum of each number over all processes."""
        return list(values)


ALONE = OneProcess()


class Accelerated(OneProcess):
    """The processes of an ``Accelerator``: data parallel (DDP), or with the weights sharded among them (FSDP2)."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.count, self.index = accelerator.num_processes, accelerator.process_index

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        return self.accelerator.prepare(model, optimizer)[0]  # both at once: FSDP replaces the parameters in them

    def sync_gradients(self, model: nn.Module, now: bool) -> AbstractContextManager:
        return nullcontext() if now else self.accelerator.no_sync(model)

    def sum_over_processes(self, *values: float) -> list[float]:
        return self.accelerator.reduce(torch.tensor(values, device=self.accelerator.device), "sum").tolist()
