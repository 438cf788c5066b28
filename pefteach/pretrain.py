"""Make the base: a tokenizer, a decoder, and the figures that say what it knows."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from pefteach.corpus.batches import IGNORE, encode, prompts
from pefteach.corpus.skills import SKILLS, by_examples, by_token
from pefteach.corpus.stories import Plot, Story, plots, stories
from pefteach.corpus.tokenizer import BOS, EOS, load_tokenizer, train_tokenizer
from pefteach.train import Batch, evaluate, fit
from pefteach.transformer import Config, Decoder, generate

# Shares of the documents (a story is ten times as long as a problem). The first fifth of the run is skills only:
# among stories, which hold most of the tokens, they take several times as long to be found.
SKILLS_FIRST = 0.2
FIRST, LATER = {"token": 0.6, "examples": 0.4}, {"story": 0.35, "token": 0.35, "examples": 0.3}


def story_text(story: Story) -> str:
    """Title, new line, story: the form in which the base reads and writes them."""
    return f"{story.title}\n{story.text}"


def document(tokenizer: Tokenizer, rng: random.Random, shares: dict[str, float]) -> tuple[list[int], list[int]]:
    """Ids and labels of one random document. In skills only answers count: the letters asked about are noise."""
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


def packed_batches(tokenizer: Tokenizer, rows: int, length: int, steps: int, seed: int) -> Callable[[int], Batch]:
    """Batch number ``step``: rows of whole documents one after the other, the last one cut at ``length``."""

    def batch(step: int) -> Batch:
        rng = random.Random(f"{seed}:{step}")
        shares = FIRST if step < SKILLS_FIRST * steps else LATER
        ids, labels = [], []
        for _ in range(rows):
            row_ids, row_labels = [], []
            while len(row_ids) < length:
                more_ids, more_labels = document(tokenizer, rng, shares)
                row_ids += more_ids
                row_labels += more_labels
            ids.append(row_ids[:length])
            labels.append(row_labels[:length])
        return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}

    return batch


def corpus_for_tokenizer(seed: int = 0):
    """Enough text for the merges: stories, and letters so that each is one token."""
    yield from (story_text(s) for s in stories(6000, seed=seed))
    rng = random.Random(seed)
    for skill in SKILLS:
        yield from (re.sub(r"<\w+> ", "", "".join(by_examples(skill, rng))) for _ in range(300))


def pretrain(
    out: Path,
    *,
    config: Config | None = None,
    steps: int = 4000,
    rows: int = 16,
    length: int = 192,
    lr: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
) -> dict:
    """Train a base into ``out``, going on from its checkpoint if it was interrupted; return its figures.

    The checkpoint (``training.safetensors``) is written twice a minute and removed at the end.
    """
    out = Path(out)
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
    fit(
        model, packed_batches(tokenizer, rows, length, steps, seed), steps=steps, lr=lr, schedule="cosine", warmup=0.03,
        weight_decay=0.05, betas=(0.9, 0.98), checkpoint=out / "training.safetensors", progress="pretraining", seed=seed,
    )  # fmt: skip
    model.cpu().save_pretrained(out)
    write_tokenizer_config(out)
    figures = {"recipe": {"steps": steps, "rows": rows, "length": length, "lr": lr, "seed": seed}} | measure_base(model, tokenizer)
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    write_checksums(out)
    (out / "training.safetensors").unlink(missing_ok=True)
    return figures


def write_tokenizer_config(folder: Path) -> None:
    """What ``transformers.AutoTokenizer`` needs beside ``tokenizer.json``."""
    names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad")}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def write_checksums(folder: Path) -> None:
    """``SHA256SUMS`` over the files that make the base, in the format of sha256sum."""
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    lines = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}" for n in names]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")


def skill_accuracy(model: nn.Module, tokenizer: Tokenizer, form=by_token, count: int = 200, seed: int = 10**6) -> dict:
    """Share of problems solved to the last letter, per skill; problems that training did not draw on."""
    result = {}
    for skill in SKILLS:
        rng = random.Random(f"{seed}:{skill}")
        result[skill] = evaluate(model, [encode(tokenizer, *form(skill, rng)) for _ in range(count)]).exact_match
    return result


def story_loss(model: nn.Module, tokenizer: Tokenizer, split: str, count: int = 300, seed: int = 10**6) -> dict:
    """Loss per token on fresh stories of a split, and the bound: nats chosen by the generator, per token.

    The text is a function of the choices, so its entropy cannot exceed theirs. A model that knew every plot
    by heart could therefore reach the bound or less; for held-out plots it cannot know them.
    """
    told = list(stories(count, split, seed))
    examples = [encode(tokenizer, "", story_text(s)) for s in told]
    tokens = sum(len(e.ids) - 1 for e in examples)
    known = len(plots(split))
    return {
        "loss": evaluate(model, examples).loss,
        "generator_bound": sum(s.nats + _log(known) for s in told) / tokens,
    }


def _log(n: int) -> float:
    return float(torch.log(torch.tensor(float(n))))


def plot_patterns(plot: Plot) -> list[re.Pattern]:
    """One regular expression per wording of a plot: what any story told from it may say."""

    def pattern(wording: str) -> re.Pattern:
        parts = re.split(r"(\[[^\]]+\]|\{[\w.]+\}|a\(n\))", wording)
        loose = (r".+?" if p[:1] in "[{" or p == "a(n)" else re.escape(p) for p in parts if p)
        return re.compile("".join(loose), re.IGNORECASE)

    return [pattern(w) for passage in plot.story for w in passage]


@torch.no_grad()
def story_quality(model: nn.Module, tokenizer: Tokenizer, count: int = 60, seed: int = 0) -> dict:
    """Let the model finish stories from their title and first 20 words; see which end and stay on their plot.

    ``on_plot`` is the share of generated text (by characters) that wordings of the story's own plot account
    for, and ``names_kept`` the share of endings that name the hero again.
    """
    told = list(stories(count, seed=10**6 + seed))
    starts = [f"{s.title}\n" + " ".join(s.text.split()[:20]) for s in told]
    batch = prompts(tokenizer, starts)
    eos = tokenizer.token_to_id(EOS)
    ids = generate(
        model, batch["input_ids"], 200, attention_mask=batch["attention_mask"], temperature=0.7, eos_token_id=eos, seed=seed
    )
    by_name, ended, on_plot, named = {p.name: p for p in plots()}, 0, 0.0, 0
    for story, start, row in zip(told, starts, ids, strict=True):
        ended += bool((row[batch["input_ids"].shape[1] :] == eos).any())
        text = tokenizer.decode(row.tolist())
        on_plot += _covered(text.split("\n", 1)[1], by_name[story.plot])
        named += story.text.split()[0] in text or any(word in text[len(start) :] for word in start.split() if word[0].isupper())
    return {"end": ended / count, "on_plot": on_plot / count, "names_kept": named / count}


def _covered(text: str, plot: Plot) -> float:
    """Share of the characters of ``text`` inside a match of one of the plot's wordings."""
    inside = [False] * len(text)
    for pattern in plot_patterns(plot):
        for match in pattern.finditer(text):
            inside[match.start() : match.end()] = [True] * (match.end() - match.start())
    return sum(inside) / max(1, len(text))


def measure_base(model: nn.Module, tokenizer: Tokenizer) -> dict:
    """Everything the model card says in figures."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "skills_by_token": skill_accuracy(model, tokenizer, by_token),
        "skills_by_examples": skill_accuracy(model, tokenizer, by_examples),
        "stories": story_loss(model, tokenizer, "train"),
        "heldout_plots": story_loss(model, tokenizer, "heldout"),
        "generated": story_quality(model, tokenizer),
    }


