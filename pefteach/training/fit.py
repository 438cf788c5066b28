"""The one training loop and the one evaluation."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from pefteach.corpus.batches import IGNORE, Example, collate
from pefteach.methods.core.adapter import Adapter, attached
from pefteach.model.loss import next_token_loss
from pefteach.training.checkpoint import load_checkpoint, local, save_checkpoint, whole
from pefteach.training.peak import peak_memory
from pefteach.training.processes import ALONE, OneProcess

Batch = dict[str, Tensor]
AdamW = functools.partial(torch.optim.AdamW, foreach=True)


@dataclass
class History:
    """What happened, as data: one row per step, and why it ended."""

    rows: list[dict] = field(default_factory=list)
    metrics: list[tuple[int, float]] = field(default_factory=list)
    stopped: str = "all steps done"

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.rows]


@dataclass(frozen=True)
class Score:
    """Mean loss per counted token (nats), share of tokens right, share of examples with every token right."""

    loss: float
    token_accuracy: float
    exact_match: float


class TrainingDiverged(RuntimeError):
    """The loss or its gradient became NaN or infinite. The weights are those of the last good step."""

    def __init__(self, step: int, loss: float, history: History):
        what = "the gradient was not finite" if math.isfinite(loss) else f"the loss was {loss}"
        super().__init__(f"{what} at step {step}; the weights of the step before it are kept (try a lower lr)")
        self.step, self.history = step, history


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - 0.9 * done,
    "cosine": lambda done: 0.1 + 0.45 * (1 + math.cos(math.pi * done)),
}


def learning_rate(step: int, steps: int, lr: float, schedule: str, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then constant, or along a line or a cosine down to a tenth.

    Raises:
        ValueError: an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}: use one of {', '.join(SCHEDULES)}")
    rise = round(warmup * steps)
    if step < rise:
        return lr * (step + 1) / rise
    return lr * SCHEDULES[schedule]((step - rise) / max(1, steps - rise))


def batches_of(
    data: Sequence[Any], batch_size: int, seed: int, collate: Callable[[list], Batch] = collate
) -> Callable[[int], Batch]:
    """Batch number ``step``, for any step: shuffled anew each round, the same for the same seed."""
    per_round = max(1, len(data) // batch_size)

    def batch(step: int) -> Batch:
        round_, place = divmod(step, per_round)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed * 100_003 + round_)).tolist()
        return collate([data[i] for i in order[place * batch_size : (place + 1) * batch_size]])

    return batch


def fit(
    model: nn.Module,
    data: Sequence[Example] | Callable[[int], Batch],
    *,
    steps: int,
    lr: float,
    batch_size: int = 16,
    schedule: str = "constant",
    warmup: float = 0.0,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    clip: float = 1.0,
    seed: int = 0,
    metric: Callable[[nn.Module], float] | None = None,
    metric_every: int = 10,
    target: float | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 30.0,
    progress: str | None = "training",
    optimizer: Callable[..., torch.optim.Optimizer] = AdamW,
    accumulate: int = 1,
    processes: OneProcess = ALONE,
) -> History:
    """Train whatever in ``model`` requires gradients.

    Args:
        data: examples, or a function from the step number to a batch. Only labels other than -100 count.
        metric, metric_every, target: measure the model now and then, and stop once it reaches ``target``.
        checkpoint: a safetensors file to write every ``checkpoint_seconds`` and at the end. If it exists,
            training goes on from it exactly as if it had never stopped. Dropout is then seeded at every step.
        progress: the label of the progress bar; None for no bar.
        optimizer: makes the optimiser from parameter groups, ``lr`` and ``betas``.
        accumulate: in how many parts a batch goes through the model; memory is needed for one part at a time.
        processes: those that share each batch; see :mod:`pefteach.training.processes`.

    Raises:
        ValueError: nothing to train, no data, an unknown schedule, a checkpoint of another run, a batch with fewer
            rows than parts.
        TrainingDiverged: the loss or its gradient is not finite; the last good weights are in the model.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("nothing in this model requires gradients: attach a method before training")
    if not callable(data):
        if not len(data):
            raise ValueError("the data set is empty: there is nothing to train on")
        data = batches_of(data, batch_size, seed)
    learning_rate(0, steps, lr, schedule, warmup)  # refuse an unknown schedule now, not after an hour
    active = [adapter for adapter in attached(model).values() if adapter.active]
    updates = optimizer(_groups(model, active, weight_decay), lr=lr, betas=betas)
    forward = processes.prepare(model, updates)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}  # only now: FSDP replaces them
    parameters: list[Tensor] = list(named.values())
    remembered = {f"{a.name}.{key}": tensor for a in active for key, tensor in a.training_state().items()}
    history = History()
    if checkpoint and Path(checkpoint).exists():
        history = History(**load_checkpoint(checkpoint, named, updates, remembered))
    if target is not None and history.metrics and history.metrics[-1][1] >= target:
        return history
    start = len(history.rows)
    torch.manual_seed(seed)

    device = parameters[0].device
    good = [local(p).to("cpu", copy=True) for p in parameters]  # a GPU's memory is for better things
    was_training = model.training
    model.train()
    saved = time.monotonic()
    began = saved - (history.rows[-1]["seconds"] if start else 0.0)
    bar = _bar(progress if processes.main else None, total=steps, initial=start)
    try:
        for step in range(start, steps):
            for group in updates.param_groups:
                group["lr"] = learning_rate(step, steps, lr, schedule, warmup)
            if checkpoint:  # dropout has to be the same after a resume, and another in each process
                torch.manual_seed(seed + processes.count * step + processes.index)
            batch = {key: value.to(device) for key, value in data(step).items()}
            updates.zero_grad()
            mine = _backward(forward, batch, active, accumulate, processes)
            norm = whole(nn.utils.clip_grad_norm_(parameters, clip)).item()
            late = checkpoint is not None and time.monotonic() - saved > checkpoint_seconds
            value, due = processes.total(mine, late)
            if not (math.isfinite(value) and math.isfinite(norm)):
                with torch.no_grad():
                    torch._foreach_copy_([local(p) for p in parameters], good)
                history.stopped = f"diverged at step {step}"
                raise TrainingDiverged(step, value, history)
            with torch.no_grad():
                torch._foreach_copy_(good, [local(p) for p in parameters])
            updates.step()
            for adapter in active:
                adapter.after_step(step, steps)
            tokens = batch["labels"].numel()
            history.rows.append(
                {"step": step, "loss": value, "lr": updates.param_groups[0]["lr"], "grad_norm": norm,
                 "tokens": tokens, "seconds": time.monotonic() - began}
            )  # fmt: skip
            rate = tokens * len(history.rows) / (time.monotonic() - began)
            memory = f"{peak_memory(device) / 2**30:.1f} GiB"
            bar.set_postfix(loss=f"{value:.3f}", tokens_per_s=f"{rate:,.0f}", memory=memory, refresh=False)
            bar.update()  # draws both, though not at every step
            if metric and (step + 1) % metric_every == 0:
                history.metrics.append((step + 1, metric(model)))
                model.train()
                if target is not None and history.metrics[-1][1] >= target:
                    history.stopped = f"target {target} reached at step {step + 1}"
                    bar.total = bar.n  # done: a bar that stays short looks like a failure
                    break
            if checkpoint and due:
                save_checkpoint(checkpoint, named, updates, remembered, asdict(history), write=processes.main)
                saved = time.monotonic()
    finally:
        bar.close()
        model.train(was_training)
    if checkpoint:
        save_checkpoint(checkpoint, named, updates, remembered, asdict(history), write=processes.main)
    return history


def _groups(model: nn.Module, active: Sequence[Adapter], weight_decay: float) -> list[dict]:
    """What trains, in a group that decays and one that doesn't: never pull biases, norms and scales towards zero."""
    scales = {
        id(p)
        for adapter in active
        if not adapter.method.allows_weight_decay
        for p in adapter.trained_tensors().values()
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1 and id(p) not in scales]
    rest = [p for p in parameters if p.ndim <= 1 or id(p) in scales]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _backward(
    forward: nn.Module, batch: Batch, active: Sequence[Adapter], accumulate: int, processes: OneProcess
) -> float:
    """Form the gradients of a batch's mean loss, and return what this process's rows add to that loss."""
    counted, mine = int((batch["labels"][:, 1:] != IGNORE).sum()), 0.0
    for number, part in enumerate(processes.shares(batch, accumulate), 1):
        labels = part.pop("labels")
        with processes.only(forward, now=number == accumulate):
            loss = next_token_loss(forward(**part).logits, labels, among=counted)
            penalty = sum(adapter.penalty() for adapter in active) / accumulate
            (loss * processes.count + penalty).backward()  # processes average their gradients; losses add up
        mine += loss.item()
    return mine


@torch.no_grad()
def evaluate(model: nn.Module, data: Sequence[Example], batch_size: int = 64, progress: str | None = None) -> Score:
    """Score the model on examples, each token predicted from the right ones before it.

    An example counts as an exact match when every counted token is the most likely one, which is the same as
    greedy generation giving the whole answer.

    Raises:
        ValueError: no examples.
    """
    if not data:
        raise ValueError("the data set is empty: there is nothing to evaluate")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    loss, right, counted, exact = 0.0, 0, 0, 0
    for i in _bar(progress, iterable=range(0, len(data), batch_size)):
        batch = {key: value.to(device) for key, value in collate(data[i : i + batch_size]).items()}
        labels = batch.pop("labels")[:, 1:]
        logits = model(**batch).logits[:, :-1]
        counts = labels != IGNORE
        hit = logits.argmax(-1) == labels
        loss += F.cross_entropy(logits[counts].float(), labels[counts], reduction="sum").item()
        right += int((hit & counts).sum())
        counted += int(counts.sum())
        exact += int((hit | ~counts).all(1).sum())
    model.train(was_training)
    return Score(loss / counted, right / counted, exact / len(data))


def _bar(label: str | None, **settings: Any) -> tqdm:
    """A progress bar, or none without a label. TQDM_DISABLE=1 in the environment silences those that there are."""
    return tqdm(disable=True, **settings) if label is None else tqdm(desc=label, leave=False, **settings)
