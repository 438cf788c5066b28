"""The settings of a QLoRA run. They are written here and nowhere else: ``pefteach qlora`` makes its options of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from pefteach.choices import BACKENDS, OPTIMIZERS, QUANT_TYPES, SCHEDULES


@dataclass(frozen=True)
class Limit:
    """The values that a setting may have, in words and as a test."""

    words: str
    allows: Callable[[Any], bool]


POSITIVE = Limit("above 0", lambda value: math.isfinite(value) and value > 0)
NOT_NEGATIVE = Limit("at least 0", lambda value: value >= 0)
SHARE = Limit("at least 0 and below 1", lambda value: 0 <= value < 1)


def setting(help: str, default: Any = MISSING, limit: Limit | None = None) -> Any:
    """A field of :class:`Settings`; ``help`` is what ``pefteach qlora --help`` says about it."""
    return field(default=default, metadata={"help": help, "limit": limit})


def choice(help: str, default: str, choices: Sequence[str]) -> Any:
    """A field that is one of a few words, which the help lists."""
    limit = Limit(f"one of {', '.join(choices)}", lambda value: value in choices)
    return setting(f"{help}: {', '.join(choices[:-1])} or {choices[-1]}", default, limit)


@dataclass(frozen=True)
class Settings:
    """What decides the outcome of a run. Rank, alpha, rate, schedule, clipping and optimiser are the paper's."""

    model: str = setting("A causal language model: a name on the hub or a folder.")
    data: str = setting('A JSONL file, a line like {"prompt": "…", "response": "…"}.')
    eval_data: str | None = setting("A JSONL file to evaluate on; by default a share of the data.", None)
    eval_share: float = setting("The share of the data to evaluate on.", 0.05, SHARE)
    eval_every: int = setting("Evaluate every so many steps; 0: only before and after the run.", 0, NOT_NEGATIVE)
    rank: int = setting("LoRA's rank.", 64, POSITIVE)
    alpha: float = setting("LoRA's alpha.", 16.0, POSITIVE)
    dropout: float = setting("LoRA's dropout.", 0.0, SHARE)
    lora_dtype: str = choice("The precision of LoRA", "float32", ("float32", "bfloat16"))
    quant_type: str = choice("The type of the 4-bit numbers", "nf4", QUANT_TYPES)
    backend: str = choice("Whose 4-bit layers", "auto", ("auto", *BACKENDS))
    lr: float = setting("The learning rate.", 2e-4, POSITIVE)
    schedule: str = choice("The learning rate after the warm-up", "constant", SCHEDULES)
    warmup: float = setting("The share of the steps in which the rate rises.", 0.03, SHARE)
    clip: float = setting("The largest norm that the gradient may have.", 0.3, POSITIVE)
    optimizer: str = choice("The optimiser", "paged-adamw-32bit", OPTIMIZERS)
    epochs: float = setting("How often to go through the data.", 1.0, POSITIVE)
    batch_size: int = setting("Rows per step, over all processes.", 16, POSITIVE)
    accumulate: int = setting("Gradient accumulation: in how many parts each process takes its rows.", 1, POSITIVE)
    length: int = setting("Tokens per row; longer examples are left out.", 1024, POSITIVE)
    packing: bool = setting("Put several short examples in a row.", True)
    checkpointing: bool = setting("Gradient checkpointing: compute the blocks twice, to need less memory.", True)
    seed: int = setting("The same seed gives the same run.", 0)

    def check(self) -> None:
        """Refuse impossible settings before a large model is opened for nothing.

        Raises:
            ValueError: a value outside its limit, or fewer rows in a batch than parts.
        """
        for each in fields(self):
            value, limit = getattr(self, each.name), each.metadata["limit"]
            if limit and not limit.allows(value):
                raise ValueError(f"{each.name} must be {limit.words}, not {value!r}")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate must be at most the batch_size of {self.batch_size}, not {self.accumulate}")
