"""Make the base: a tokenizer, then a decoder trained on the project's own stories and skills."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from pefteach.corpus.batches import IGNORE
from pefteach.corpus.skills import SKILLS, by_examples, by_token
from pefteach.corpus.stories import stories
from pefteach.corpus.tokenizer import BOS, EOS, load_tokenizer, train_tokenizer
from pefteach.measure.knowledge import story_text
from pefteach.model.decoder import Config, Decoder
from pefteach.training import fit
from pefteach.training.batches import Batch
from pefteach.workshop.model_card import write_card


@dataclass(frozen=True)
class Stage:
    """A part of the run with its own learning rate and mixture.

    ``first`` and ``later`` are shares of the documents (a story is ten times as long as a problem); ``first`` holds for
    the first fifth of the stage.
    """

    name: str
    steps: int
    lr: float
    first: dict[str, float]
    later: dict[str, float]


# Skills come first: mixed with stories, which hold most of the tokens, they take several times as long to learn.
# Inferring a skill from examples, and keeping track of names, take longest and get a stage of their own.
STAGES = (
    Stage("base", 4000, 2e-3, {"token": 0.6, "examples": 0.4}, {"story": 0.35, "token": 0.35, "examples": 0.3}),
    Stage("examples", 1500, 1.5e-3, *[{"story": 0.3, "token": 0.15, "examples": 0.55}] * 2),
    Stage("polish", 400, 5e-4, *[{"story": 0.2, "token": 0.6, "examples": 0.2}] * 2),
)
ROWS, LENGTH = 16, 192


def document(tokenizer: Tokenizer, rng: random.Random, shares: dict[str, float]) -> tuple[list[int], list[int]]:
    """Ids and labels of one random document. In skills only answers count: the letters of a question are random."""
    kind = rng.choices(list(shares), list(shares.values()))[0]
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    if kind == "story":
        (story,) = stories(1, seed=rng.getrandbits(48))
        ids = [bos, *tokenizer.encode(story_text(story)).ids, eos]
        return ids, ids
    skill = rng.choice(list(SKILLS))
    prompt, answer = by_token(skill, rng) if kind == "token" else by_examples(skill, rng, shots=rng.randint(2, 4))
    encoded = tokenizer.encode(prompt + answer)
    answering, labels = False, [IGNORE]
    for id_, token in zip(encoded.ids, encoded.tokens, strict=True):
        labels.append(id_ if answering else IGNORE)
        answering = (answering or token == "Ġ=") and token != "Ġ;"
    return [bos, *encoded.ids, eos], [*labels, eos]


def packed_batches(tokenizer: Tokenizer, stage: Stage, rows: int, length: int, seed: int) -> Callable[[int], Batch]:
    """Return the function that makes batch number ``step``: rows of documents end to end, cut at ``length``."""

    def batch(step: int) -> Batch:
        rng = random.Random(f"{seed}:{step}")
        shares = stage.first if step < stage.steps / 5 else stage.later
        ids, labels = [], []
        for _ in range(rows):
            row_ids: list[int] = []
            row_labels: list[int] = []
            while len(row_ids) < length:
                more_ids, more_labels = document(tokenizer, rng, shares)
                row_ids += more_ids
                row_labels += more_labels
            ids.append(row_ids[:length])
            labels.append(row_labels[:length])
        return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}

    return batch


def corpus_for_tokenizer(seed: int = 0) -> Iterator[str]:
    """Yield enough text to learn merges from: stories, and single letters, so that each becomes one token."""
    yield from (story_text(s) for s in stories(6000, seed=seed))
    rng = random.Random(seed)
    for skill in SKILLS:
        yield from (re.sub(r"<\w+> ", "", "".join(by_examples(skill, rng))) for _ in range(300))


def pretrain(
    out: Path,
    *,
    config: Config | None = None,
    stages: Sequence[Stage] = STAGES,
    rows: int = ROWS,
    length: int = LENGTH,
    seed: int = 0,
    device: str = "cpu",
) -> dict:
    """Train a base into ``out`` and return its figures.

    A checkpoint per stage (``training-….safetensors``) is written twice a minute and removed at the end. An
    interrupted run continues from it.

    Raises:
        ValueError: ``out`` holds a finished base, or there is no such device.
    """
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"there is no device {device!r} here: use cpu{' or cuda' * torch.cuda.is_available()}")
    out = Path(out)
    if (out / "model.safetensors").exists():
        raise ValueError(f"{out} holds a finished base: choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    if (out / "tokenizer.json").exists():
        tokenizer = load_tokenizer(out)
    else:
        tokenizer = train_tokenizer(corpus_for_tokenizer(seed))
        tokenizer.save(str(out / "tokenizer.json"))
    special = {f"{name}_token_id": tokenizer.token_to_id(f"<{name}>") for name in ("bos", "eos", "pad")}
    settings = (config or Config()).to_dict() | special | {"vocab_size": tokenizer.get_vocab_size()}
    torch.manual_seed(seed)
    model = Decoder(Config.from_dict(settings)).to(device)
    checkpoints = [out / f"training-{stage.name}.safetensors" for stage in stages]
    for stage, checkpoint in zip(stages, checkpoints):
        fit(
            model,
            packed_batches(tokenizer, stage, rows, length, seed),
            steps=stage.steps,
            lr=stage.lr,
            schedule="cosine",
            warmup=0.03,
            weight_decay=0.05,
            betas=(0.9, 0.98),
            seed=seed,
            checkpoint=checkpoint,
            progress=f"pretraining, stage {stage.name}",
        )
    model.cpu().save_pretrained(out)
    write_tokenizer_config(out)
    recipe = {"stages": [asdict(stage) for stage in stages], "rows": rows, "length": length, "seed": seed}
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    write_checksums(out)
    for checkpoint in checkpoints:
        checkpoint.unlink()
    return write_card(out)


def write_tokenizer_config(folder: Path) -> None:
    """Write the settings that ``transformers.AutoTokenizer`` needs beside ``tokenizer.json``."""
    names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad")}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def write_checksums(folder: Path) -> None:
    """Write ``SHA256SUMS`` over the files that make the base, in the format of sha256sum."""
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    lines = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}" for n in names]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")
