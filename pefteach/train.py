"""The one training loop and the one evaluation."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from pefteach.corpus.batches import IGNORE, Example, collate
from pefteach.methods.method import adapters

Batch = dict[str, Tensor]


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
    """The loss became NaN or infinite. The weights are those of the last good step."""

    def __init__(self, step: int, loss: float, history: History):
        super().__init__(
            f"the loss was {loss} at step {step}; the weights of the step before it are kept (try a lower lr)"
        )
        self.step, self.history = step, history


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of the tokens that count. logits (B, T, V), labels (B, T) with -100 to skip."""
    # Shift the labels, not the logits: cutting a position off those would copy all (B, T, V) numbers on the way back.
    wanted = F.pad(labels[:, 1:], (0, 1), value=IGNORE).flatten()  # (B·T,): the last position of a row predicts nothing
    counted = (wanted != IGNORE).nonzero().squeeze(1)
    return F.cross_entropy(logits.flatten(0, 1).index_select(0, counted).float(), wanted[counted])


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


def batches_of(data: Sequence[Example], batch_size: int, seed: int) -> Callable[[int], Batch]:
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
) -> History:
    """Train whatever in ``model`` requires gradients, with AdamW.

    Args:
        data: examples, or a function from the step number to a batch. Only labels other than -100 count.
        metric, metric_every, target: measure the model now and then, and stop once it reaches ``target``.
        checkpoint: a safetensors file to write every ``checkpoint_seconds`` and at the end. If it exists,
            training goes on from it exactly as if it had never stopped.
        progress: the label of the progress bar; None for no bar.

    Raises:
        ValueError: nothing to train, no data, an unknown schedule, a checkpoint of another run.
        TrainingDiverged: the loss or its gradient is not finite; the last good weights are in the model.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError("nothing in this model requires gradients: attach a method before training")
    if not callable(data):
        if not len(data):
            raise ValueError("the data set is empty: there is nothing to train on")
        data = batches_of(data, batch_size, seed)
    learning_rate(0, steps, lr, schedule, warmup)  # refuse an unknown schedule now, not after an hour
    active = [adapter for adapter in adapters(model).values() if adapter.active]
    scales = {id(p) for adapter in active if not adapter.method.decays for p in adapter.tensors().values()}
    parameters: list[Tensor] = list(named.values())
    decayed = [p for p in parameters if p.ndim > 1 and id(p) not in scales]
    rest = [p for p in parameters if p.ndim <= 1 or id(p) in scales]  # never pull biases, norms and scales towards zero
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, foreach=True)
    remembered = {f"{a.name}.{key}": tensor for a in active for key, tensor in a.state().items()}
    start = _resume(checkpoint, named, optimizer, remembered) if checkpoint and Path(checkpoint).exists() else 0
    torch.manual_seed(seed)

    device, history = parameters[0].device, History()
    good = [p.detach().clone() for p in parameters]
    was_training = model.training
    model.train()
    saved, began = time.monotonic(), time.monotonic()
    bar = _bar(progress, total=steps, initial=start)
    try:
        for step in range(start, steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, lr, schedule, warmup)
            batch = {key: value.to(device) for key, value in data(step).items()}
            labels = batch.pop("labels")
            loss = next_token_loss(model(**batch).logits, labels)
            total = loss
            for adapter in active:
                total = total + adapter.penalty()
            optimizer.zero_grad()
            total.backward()
            norm = nn.utils.clip_grad_norm_(parameters, clip)
            value = loss.item()
            if not (math.isfinite(value) and math.isfinite(norm.item())):
                with torch.no_grad():
                    torch._foreach_copy_(parameters, good)
                history.stopped = f"diverged at step {step}"
                raise TrainingDiverged(step, value, history)
            with torch.no_grad():
                torch._foreach_copy_(good, parameters)
            optimizer.step()
            for adapter in active:
                adapter.after_step(step, steps)
            tokens = int(labels.numel())
            history.rows.append(
                {"step": step, "loss": value, "lr": optimizer.param_groups[0]["lr"], "grad_norm": norm.item(),
                 "tokens": tokens, "seconds": time.monotonic() - began}
            )  # fmt: skip
            rate = tokens * len(history.rows) / (time.monotonic() - began)
            bar.set_postfix(loss=f"{value:.3f}", tokens_per_s=f"{rate:,.0f}", refresh=False)
            bar.update()  # draws both, though not at every step
            if checkpoint and time.monotonic() - saved > checkpoint_seconds:
                _save(checkpoint, named, optimizer, remembered, step + 1)
                saved = time.monotonic()
            if metric and (step + 1) % metric_every == 0:
                history.metrics.append((step + 1, metric(model)))
                model.train()
                if target is not None and history.metrics[-1][1] >= target:
                    history.stopped = f"target {target} reached at step {step + 1}"
                    bar.total = bar.n  # done: a bar that stays short looks like a failure
                    break
    finally:
        bar.close()
        model.train(was_training)
    if checkpoint:
        _save(checkpoint, named, optimizer, remembered, start + len(history.rows))
    return history


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


def _save(
    file: Path,
    named: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    remembered: dict[str, Tensor],
    step: int,
) -> None:
    """Weights, AdamW's two moments, what adapters remember and the step, written beside and then moved into place."""
    tensors = {f"weight:{name}": p.detach() for name, p in named.items()}
    tensors |= {f"state:{name}": tensor for name, tensor in remembered.items()}
    for name, p in named.items():
        for key, value in optimizer.state[p].items():
            tensors[f"{key}:{name}"] = value
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata={"run": json.dumps({"step": step})})
    partial.replace(file)


def _resume(
    file: Path, named: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, remembered: dict[str, Tensor]
) -> int:
    try:
        with safe_open(file, "pt") as stored:
            found = {k: stored.get_tensor(k) for k in stored.keys()}
            step = json.loads(stored.metadata()["run"])["step"]
    except (SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is damaged or no training checkpoint ({error}); remove it to begin again") from None
    targets: dict[str, Tensor] = {f"weight:{name}": p for name, p in named.items()}
    targets |= {f"state:{name}": tensor for name, tensor in remembered.items()}
    shapes = {k: v.shape for k, v in found.items() if k.startswith(("weight:", "state:"))}
    if shapes != {key: tensor.shape for key, tensor in targets.items()}:
        raise ValueError(f"{file} belongs to another model or method; remove it to begin again")
    with torch.no_grad():
        for key, tensor in targets.items():
            tensor.copy_(found[key])
        for name, p in named.items():
            optimizer.state[p] = {key: found[f"{key}:{name}"].to(p.device if key != "step" else "cpu")
                                  for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}:{name}" in found}  # fmt: skip
    return step
