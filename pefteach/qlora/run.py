"""A QLoRA run from files to files: a model and instructions go in, an adapter in peft's format comes out."""

from __future__ import annotations

import math
import platform
import random
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from pefteach.corpus.batches import Example
from pefteach.interop import save_adapter
from pefteach.measure.parameters import count_parameters
from pefteach.methods.qlora import prepare_qlora
from pefteach.qlora.instructions import Instruction, encode_instruction, prompt_ids, read_instructions
from pefteach.qlora.packing import collate_rows, leaks, pack
from pefteach.qlora.settings import TRAINING, Settings, claim, remember
from pefteach.quant.load import load_in_4bit, quantise
from pefteach.training import TrainingDiverged, evaluate, fit
from pefteach.training.batches import batches_of
from pefteach.training.optimizers import optimizer_for
from pefteach.training.peak import peak_memory
from pefteach.training.processes import Accelerated


def run(
    settings: Settings, out: Path, *, checkpoint_seconds: float = 60.0, samples: int = 2, cpu: bool = False
) -> dict[str, Any] | None:
    """Train, and leave in ``out`` the adapter and ``run.json``. A run that was killed goes on where it was.

    Args:
        checkpoint_seconds: how often the state of the run is stored.
        samples: how many of the held-out prompts to answer, before and after.
        cpu: leave a GPU alone.

    Returns:
        What is in ``run.json`` under "result": losses in nats per token of held-out responses, the loss of every
        step, speed, memory and samples. None in all processes but the first.

    Raises:
        FileNotFoundError: no data there.
        ValueError: settings that do not fit, bad lines in the data, a model that cannot be opened, a folder with
            another run, or a loss that is not finite.
    """
    settings.check()
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError:
        raise ValueError("a QLoRA run needs accelerate: run `pip install 'pefteach[gpu]'`") from None
    # The scales of the 4-bit layers are buffers that never change: no need to send them round at every step.
    accelerator = Accelerator(cpu=cpu, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    processes, say, device = Accelerated(accelerator), accelerator.print, accelerator.device
    if device.type == "cuda":  # LoRA in float32 multiplies in TF32, with ten bits where all around it has seven
        torch.set_float32_matmul_precision("high")
    train, held_out = read(settings)
    claimed = claim(out, settings) if processes.main else {}

    sharded = accelerator.is_fsdp2
    tokenizer, model = open_model(settings, device, sharded)
    limit = getattr(model.config, "max_position_embeddings", None) or math.inf
    if settings.length > limit:
        raise ValueError(f"{settings.model} reads {limit} tokens at most: lower --length from {settings.length}")
    if settings.packing and leaks(model):
        raise ValueError(f"in {type(model).__name__} packed examples see each other: train it with --no-packing")
    (_, examples), (asked, held_out_examples) = (
        fitting(tokenizer, lines, settings.length, say) for lines in (train, held_out)
    )
    rows = pack(examples, settings.length) if settings.packing else [[example] for example in examples]
    if len(rows) < settings.batch_size:
        raise ValueError(f"{settings.data} fills {len(rows)} rows, less than a batch: lower --batch-size or --length")
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
    say(f"{len(examples)} examples in {len(rows)} rows; {steps} steps; {count.trainable:,} of {count.total:,} train.")

    if (Path(out) / TRAINING).exists():
        say("Going on with the run that was interrupted.")

    part = settings.batch_size // settings.accumulate
    held_out_loss = lambda model: evaluate(model, held_out_examples, batch_size=part).loss
    answers = lambda: [_answer(model, tokenizer, line.prompt, limit) for line in asked[:samples]]
    # A model that is to be sharded is still on the CPU, where this would take too long.
    before, loss_before = ([None] * samples, None) if sharded else (answers(), held_out_loss(model))
    try:
        history = fit(
            model, batches_of(rows, settings.batch_size, settings.seed, collate_rows), steps=steps, lr=settings.lr,
            schedule=settings.schedule, warmup=settings.warmup, clip=settings.clip, seed=settings.seed,
            metric=held_out_loss if settings.eval_every else None, metric_every=settings.eval_every or 1,
            checkpoint=Path(out) / TRAINING, checkpoint_seconds=checkpoint_seconds,
            optimizer=optimizer, accumulate=settings.accumulate, processes=processes, progress="QLoRA",
        )  # fmt: skip
    except TrainingDiverged as error:
        raise ValueError(str(error)) from None
    loss_after, after = held_out_loss(model), answers()

    save_adapter(model, out, base_model=settings.model, write=processes.main)
    if not processes.main:
        return None
    seconds = history.rows[-1]["seconds"]
    result = {
        "loss_before": loss_before,
        "loss_after": loss_after,
        "evaluations": history.metrics,
        "tokens_per_second": sum(row["tokens"] for row in history.rows) / seconds,
        "peak_bytes": peak_memory(device),
        "processes": processes.count,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
        "samples": [
            {"prompt": line.prompt, "before": old, "after": new, "wanted": line.response.strip()}
            for line, old, new in zip(asked, before, after)
        ],
        "history": history.rows,
    }
    remember(out, claimed | {"result": result})
    (Path(out) / TRAINING).unlink()
    return result


def read(settings: Settings) -> tuple[list[Instruction], list[Instruction]]:
    """Lines to train on and lines held out: those of ``eval_data``, or a random share of ``data``.

    Raises:
        FileNotFoundError, ValueError: see :func:`pefteach.qlora.instructions.read_instructions`; or a single line.
    """
    lines = read_instructions(Path(settings.data))
    if settings.eval_data:
        return lines, read_instructions(Path(settings.eval_data))
    if len(lines) < 2:
        raise ValueError(f"{settings.data} has one line: give others to evaluate on with --eval-data")
    random.Random(settings.seed).shuffle(lines)
    count = min(max(1, round(settings.eval_share * len(lines))), len(lines) - 1)
    return lines[count:], lines[:count]


def open_model(settings: Settings, device: torch.device, sharded: bool = False) -> tuple[Any, nn.Module]:
    """Tokenizer and model, in 4 bits on the device: by bitsandbytes on a GPU, else by this package.

    FSDP shards this package's codes like any parameter, but leaves bitsandbytes' whole on every GPU. A model that is
    to be sharded waits on the CPU, since it may be too large for one GPU.

    Raises:
        ValueError: no causal language model under this name, or one that cannot be put in 4 bits.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    backend = settings.backend
    if backend == "auto":
        backend = "bitsandbytes" if device.type == "cuda" and not sharded else "pefteach"
    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.model)
        if backend == "bitsandbytes":
            return tokenizer, load_in_4bit(
                settings.model, quant_type=settings.kind, compute_dtype=dtype, device_map={"": device}
            )
        model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=dtype)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        why = (
            str(error).splitlines()[0][:200] if Path(settings.model).exists() else "no such folder, and not on the hub"
        )
        raise ValueError(f"cannot open the model {settings.model}: {why}") from None
    return tokenizer, quantise(model, backend, quant_type=settings.kind, device=None if sharded else device)


def fitting(
    tokenizer: Any, lines: list[Instruction], length: int, say: Callable[[str], None]
) -> tuple[list[Instruction], list[Example]]:
    """The lines that fit into a row, and what they are in tokens; the others are named.

    Raises:
        ValueError: none fits.
    """
    encoded = [(line, encode_instruction(tokenizer, line)) for line in lines]
    kept = [(line, example) for line, example in encoded if len(example.ids) <= length]
    if not kept:
        raise ValueError(f"no example has at most {length} tokens: raise --length")
    if long := sorted(line.line for line, example in encoded if len(example.ids) > length):
        say(f"Note: left out {len(long)} examples of more than {length} tokens, the first in line {long[0]}.")
    return [line for line, _ in kept], [example for _, example in kept]


@torch.no_grad()
def _answer(model: Any, tokenizer: Any, prompt: str, limit: float) -> str:
    """What the model answers now, always taking the likeliest token: 64 of them, or what is left of its ``limit``."""
    was_training = model.training
    model.eval()
    ids = torch.tensor([prompt_ids(tokenizer, prompt)], device=next(model.parameters()).device)
    new_tokens = min(64, limit - ids.shape[1])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False,
        use_cache=True, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model.train(was_training)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
