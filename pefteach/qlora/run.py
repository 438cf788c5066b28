"""A QLoRA run from files to files: a model and instructions go in, an adapter in peft's format comes out."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pefteach.interop import save_adapter
from pefteach.measure.parameters import count_parameters
from pefteach.methods.qlora import prepare_qlora
from pefteach.qlora.data import encode_lines, read, rows_of
from pefteach.qlora.folder import TRAINING, claim, write_run
from pefteach.qlora.model import answer, check_model, open_model
from pefteach.qlora.packing import collate_rows
from pefteach.qlora.settings import Settings
from pefteach.training import History, TrainingDiverged, evaluate, fit
from pefteach.training.batches import batches_of
from pefteach.training.optimizers import optimizer_for
from pefteach.training.peak import peak_memory
from pefteach.training.processes import Accelerated


def run(
    settings: Settings, out: Path, *, checkpoint_seconds: float = 60.0, samples: int = 2, cpu: bool = False
) -> dict[str, Any] | None:
    """Train, and leave the adapter and ``run.json`` in ``out``. A run that was killed goes on where it was.

    Args:
        checkpoint_seconds: how often the state of the run is stored.
        samples: how many of the held-out prompts to answer, before and after.
        cpu: train on the CPU even if there is a GPU.

    Returns:
        What is in ``run.json`` under "result": losses in nats per token of held-out responses, the loss of every
        step, speed, memory and samples. None in all processes but the first.

    Raises:
        FileNotFoundError: no data there.
        ValueError: settings that do not fit, bad lines in the data, a model that cannot be opened, a folder with
            another run, or a loss that is not finite.
    """
    settings.check()
    accelerator = _accelerator(cpu)
    processes, device, sharded = Accelerated(accelerator), accelerator.device, accelerator.is_fsdp2
    say = accelerator.print  # in the first process only
    lines, held_out_lines = read(settings)
    claimed = claim(out, settings) if processes.main else {}

    tokenizer, model = open_model(settings, device, sharded)
    check_model(model, settings)
    train = encode_lines(tokenizer, lines, settings.length, say)
    held_out = encode_lines(tokenizer, held_out_lines, settings.length, say)
    rows = rows_of(train.examples, settings)
    steps = max(1, round(settings.epochs * len(rows) / settings.batch_size))

    torch.manual_seed(settings.seed)
    prepare_qlora(
        model, settings.rank, settings.alpha, settings.dropout,
        lora_dtype=getattr(torch, settings.lora_dtype), checkpointing=settings.checkpointing,
    )  # fmt: skip
    optimizer, note = optimizer_for(settings.optimizer, device, sharded)
    if note:
        say(f"Note: {note}.")
    count = count_parameters(model)
    say(f"{len(train.examples)} examples in {len(rows)} rows; {steps} steps; "
        f"{count.trainable:,} of {count.total:,} train.")  # fmt: skip
    checkpoint = Path(out) / TRAINING
    if checkpoint.exists():
        say("Going on with the run that was interrupted.")

    batch_size = settings.batch_size // settings.accumulate
    held_out_loss = lambda model: evaluate(model, held_out.examples, batch_size=batch_size).loss
    answers = lambda: [answer(model, tokenizer, line.prompt) for line in held_out.lines[:samples]]
    # A model that is to be sharded is still on the CPU, where this would take too long.
    before, loss_before = ([None] * samples, None) if sharded else (answers(), held_out_loss(model))
    try:
        history = fit(
            model, batches_of(rows, settings.batch_size, settings.seed, collate_rows), steps=steps, lr=settings.lr,
            schedule=settings.schedule, warmup=settings.warmup, clip=settings.clip, seed=settings.seed,
            metric=held_out_loss if settings.eval_every else None, metric_every=settings.eval_every or 1,
            checkpoint=checkpoint, checkpoint_seconds=checkpoint_seconds,
            optimizer=optimizer, accumulate=settings.accumulate, processes=processes, progress="QLoRA",
        )  # fmt: skip
    except TrainingDiverged as error:
        raise ValueError(str(error)) from None
    loss_after, after = held_out_loss(model), answers()

    save_adapter(model, out, base_model=settings.model, write=processes.main)
    if not processes.main:
        return None
    said = [
        {"prompt": line.prompt, "before": old, "after": new, "wanted": line.response.strip()}
        for line, old, new in zip(held_out.lines, before, after)
    ]
    losses = {"loss_before": loss_before, "loss_after": loss_after, "evaluations": history.metrics}
    result = losses | _circumstances(history, processes, device) | {"samples": said, "history": history.rows}
    write_run(out, claimed | {"result": result})
    checkpoint.unlink()
    return result


def _accelerator(cpu: bool) -> Any:
    """Start accelerate, for the processes that there are."""
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError:
        raise ValueError("a QLoRA run needs accelerate: run `pip install 'pefteach[gpu]'`") from None
    # The scales of the 4-bit layers are buffers that never change: no need to send them round at every step.
    accelerator = Accelerator(cpu=cpu, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    if accelerator.device.type == "cuda":  # LoRA in float32 multiplies in TF32: ten bits, where all around it has seven
        torch.set_float32_matmul_precision("high")
    return accelerator


def _circumstances(history: History, processes: Accelerated, device: torch.device) -> dict[str, Any]:
    """Speed, memory, machine and versions."""
    return {
        "tokens_per_second": sum(row["tokens"] for row in history.rows) / history.seconds,
        "peak_bytes": peak_memory(device),
        "processes": processes.count,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
    }
