"""What happened in a training run, as data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class History:
    """One row per step, the measurements of the metric as (steps done, value), and why the run ended.

    A row holds ``step``, ``loss`` (nats per token), ``lr``, ``grad_norm`` (before clipping), ``tokens`` (of the batch,
    with padding) and ``seconds`` (since the start of the run, without the time between a kill and the resume).
    """

    rows: list[dict] = field(default_factory=list)
    metrics: list[tuple[int, float]] = field(default_factory=list)
    stopped: str = "all steps done"

    @property
    def losses(self) -> list[float]:
        """The loss of every step."""
        return [row["loss"] for row in self.rows]

    @property
    def seconds(self) -> float:
        """How long the steps took so far."""
        return self.rows[-1]["seconds"] if self.rows else 0.0

    def reached(self, target: float | None) -> bool:
        """Whether the last measurement is at least ``target``."""
        return target is not None and bool(self.metrics) and self.metrics[-1][1] >= target
