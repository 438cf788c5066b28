"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from pefteach.corpus.batches import Example
from pefteach.methods.core.adapter import attached
from pefteach.model.modes import train_mode
from pefteach.training.adamw import AdamW, parameter_groups
from pefteach.training.batches import Batch, batches_of
from pefteach.training.checkpoint import Checkpoint
from pefteach.training.divergence import LastGoodWeights, TrainingDiverged
from pefteach.training.gradients import compute_gradients
from pefteach.training.history import History
from pefteach.training.processes import ALONE, OneProcess
from pefteach.training.progress import progress_bar, show_step
from pefteach.training.schedule import learning_rate
from pefteach.training.sharding import whole


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
        schedule, warmup: see :func:`pefteach.training.schedule.learning_rate`.
        clip: the largest norm that the gradient may have (transformers' ``max_grad_norm``).
        metric, metric_every, target: call ``metric(model)`` after every so many steps, and stop once the value
            reaches ``target``.
        checkpoint: a safetensors file to write every ``checkpoint_seconds`` and at the end. If it exists,
            training goes on from it exactly as if it had never stopped. Dropout is then seeded at every step.
        progress: the label of the progress bar; None for no bar.
        optimizer: makes the optimiser from parameter groups, ``lr`` and ``betas``.
        accumulate: in how many parts a batch goes through the model (transformers' ``gradient_accumulation_steps``);
            memory is needed for one part at a time.
        processes: those that share each batch; see :mod:`pefteach.training.processes`.

    Raises:
        ValueError: nothing to train, no data, an unknown schedule, a checkpoint of another run, a batch with fewer
            rows than parts.
        TrainingDiverged: the loss or its gradient is not finite; the last good weights are in the model.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("nothing in this model requires gradients: attach a method before training")
    batch_at = data if callable(data) else batches_of(data, batch_size, seed)
    learning_rate(0, steps, lr, schedule, warmup)  # refuse an unknown schedule now, not after an hour

    adapters = [adapter for adapter in attached(model).values() if adapter.active]
    opt = optimizer(parameter_groups(model, adapters, weight_decay), lr=lr, betas=betas)
    forward = processes.prepare(model, opt)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}  # only now: FSDP replaces them
    parameters = list(weights.values())
    run_state = Checkpoint(checkpoint, checkpoint_seconds, weights, opt, adapters, write=processes.main)
    history = run_state.load()
    if history.reached(target):
        return history

    torch.manual_seed(seed)
    device = parameters[0].device
    last_good_weights = LastGoodWeights(parameters)
    began, first = time.monotonic() - history.seconds, len(history.rows)
    bar = progress_bar(progress if processes.main else None, total=steps, initial=first)
    with train_mode(model), bar:
        for step in range(first, steps):
            rate = learning_rate(step, steps, lr, schedule, warmup)
            for group in opt.param_groups:
                group["lr"] = rate
            if checkpoint:  # dropout has to be the same after a resume, and another in each process
                torch.manual_seed(seed + processes.count * step + processes.index)

            batch = {key: value.to(device) for key, value in batch_at(step).items()}
            opt.zero_grad()
            own_loss = compute_gradients(forward, batch, adapters, accumulate, processes)
            grad_norm = whole(nn.utils.clip_grad_norm_(parameters, clip)).item()
            loss, checkpoint_due = processes.sum_over_processes(own_loss, run_state.due())
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                last_good_weights.restore()
                history.stopped = f"diverged at step {step}"
                raise TrainingDiverged(step, loss, history)
            last_good_weights.keep()
            opt.step()
            for adapter in adapters:
                adapter.after_step(step, steps)

            history.rows.append(
                {"step": step, "loss": loss, "lr": rate, "grad_norm": grad_norm, "tokens": batch["labels"].numel(),
                 "seconds": time.monotonic() - began}
            )  # fmt: skip
            show_step(bar, history, device)
            if metric and (step + 1) % metric_every == 0:
                history.metrics.append((step + 1, metric(model)))
                model.train()
                if history.reached(target):
                    history.stopped = f"target {target} reached at step {step + 1}"
                    bar.total = bar.n  # done: a bar that stays short looks like a failure
                    break
            if checkpoint_due:
                run_state.save(history)
    run_state.save(history)
    return history
