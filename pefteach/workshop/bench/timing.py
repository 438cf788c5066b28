"""Times several variants of a computation fairly: they take turns in one process."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping

from tqdm import tqdm


def median_seconds(variants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, float]:
    """Run every variant once per round and return each variant's median seconds."""
    return {name: statistics.median(taken) for name, taken in time_variants(variants, rounds, warmup).items()}


def time_variants(variants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Run every variant once per round and return what each took.

    What disturbs the machine for a while then disturbs all variants alike. Every round has another order, so that none
    always finds the caches as the same neighbour left them.
    """
    names, rng = list(variants), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in variants}
    collecting = gc.isenabled()
    gc.disable()  # a collection would be charged to whichever variant it falls on
    try:
        for turn in tqdm(range(-warmup, rounds), desc="measuring", leave=False, disable=None):
            rng.shuffle(names)
            for name in names:
                began = time.perf_counter()
                variants[name]()
                if turn >= 0:
                    times[name].append(time.perf_counter() - began)
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return times
