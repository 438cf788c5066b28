"""The learning rate of every step."""

from __future__ import annotations

import math

from pefteach.choices import SCHEDULES


def learning_rate(step: int, steps: int, lr: float, schedule: str, warmup: float) -> float:
    """The rate of step number ``step`` of ``steps``.

    It rises to ``lr`` over the share ``warmup`` of the steps. Then it stays there ("constant"), or falls to a tenth
    of it, along a line ("linear") or half a wave ("cosine").

    Raises:
        ValueError: an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}: use one of {', '.join(SCHEDULES)}")
    rise = round(warmup * steps)
    if step < rise:
        return lr * (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)  # from 0 to 1
    shape = {"constant": 1.0, "linear": 1 - 0.9 * done, "cosine": 0.1 + 0.45 * (1 + math.cos(math.pi * done))}
    return lr * shape[schedule]
