"""What 4 bits cost in quality, on the base that ships: the damage, training on top of it, and merging.

A small model and its own stories: the order of the grids is what to read here, not the size of the loss.
"""

from __future__ import annotations

from statistics import fmean, stdev

import torch
from torch import nn
from tqdm import tqdm

from pefteach.corpus.batches import Example, encode
from pefteach.corpus.stories import stories
from pefteach.corpus.tokenizer import load_tokenizer
from pefteach.measure.knowledge import FRESH, story_text
from pefteach.methods import LoRA, attach, attached
from pefteach.methods.qlora import prepare_qlora
from pefteach.model.base import load_base
from pefteach.quant import dequantise, quantise
from pefteach.quant.damage import GRIDS, quantised_and_back
from pefteach.quant.load import block_linears
from pefteach.training import evaluate, fit
from pefteach.workshop.rows import Row, row

ORDER = [("8 bit", "NF4"), ("NF4", "FP4"), ("NF4", "INT4"), ("FP4", "3 bit"), ("INT4", "3 bit"), ("3 bit", "2 bit")]
RANK, ALPHA = 16, 32.0
AS_GOOD = 1.02  # QLoRA's loss, to LoRA's on 16 bits


def run(samples: int = 5, count: int = 40, steps: int = 200, seeds: int = 3, rows: int = 8) -> list[Row]:
    """Losses in nats per token.

    Args:
        samples, count: how often, and on how many fresh stories, the damage is measured.
        steps, seeds, rows: of the training runs, on stories of plots that the base has not seen.
    """
    return damage(samples, count) + training(steps, seeds, rows)


def damage(samples: int, count: int) -> list[Row]:
    """The loss of the base through every grid, and each grid's damage against the next one's."""
    base, _ = load_base()
    texts = [_told("train", count, FRESH + sample) for sample in range(samples)]
    loss = {
        name: [evaluate(base if name == "32 bit" else quantised_and_back(base, name), text).loss for text in texts]
        for name in tqdm(["32 bit", *GRIDS], desc="damage", leave=False, disable=None)
    }
    added = {name: [a - b for a, b in zip(loss[name], loss["32 bit"])] for name in GRIDS}
    found = [
        row(f"loss of the base, {_spread(name, values)}", "nats", fmean(values), None) for name, values in loss.items()
    ]
    for less, more in ORDER:
        worst = max(range(samples), key=lambda sample: added[less][sample] / added[more][sample])
        name = f"damage of {less} against {more}, in the worst of {samples} samples"
        found.append(row(name, "nats", added[less][worst], 1.0, added[more][worst]))
    return found


def training(steps: int, seeds: int, rows: int) -> list[Row]:
    """The loss of LoRA on the base in 32 bits and in 4, and of the latter after merging."""
    test = _told("heldout", 60, FRESH)
    loss: dict[str, list[float]] = {name: [] for name in ("LoRA", "QLoRA", "merged into 32 bits", "merged into 4 bits")}
    lost = []
    for seed in range(seeds):
        loss["LoRA"].append(evaluate(_trained(False, seed, steps, rows), test).loss)
        model = _trained(True, seed, steps, rows)
        loss["QLoRA"].append(evaluate(model, test).loss)
        before = {path: layer.weight for path, layer in block_linears(model).items()}
        merged = _merged(model)
        loss["merged into 32 bits"].append(evaluate(merged, test).loss)
        wanted = {path: layer.weight.detach().clone() for path, layer in block_linears(merged).items()}
        quantise(merged)
        loss["merged into 4 bits"].append(evaluate(merged, test).loss)
        for path, layer in block_linears(merged).items():
            lost.append(((layer.weight - wanted[path]).norm() / (wanted[path] - before[path]).norm()).item())
    found = [row(f"loss of {_spread('LoRA on 32 bits', loss['LoRA'])}", "nats", fmean(loss["LoRA"]), None)]
    for name in list(loss)[1:]:
        limit = None if name == "merged into 4 bits" else AS_GOOD  # what not to do
        found.append(row(f"loss of {_spread(name, loss[name])} against LoRA's", "nats", fmean(loss[name]), limit,
                         fmean(loss["LoRA"])))  # fmt: skip
    found.append(row("rounding error of merging into 4 bits, as a share of LoRA's change", "", fmean(lost), None))
    return found


def _trained(four_bit: bool, seed: int, steps: int, rows: int) -> nn.Module:
    """The base with LoRA on every linear layer, after some steps on stories of new plots."""
    model, _ = load_base()
    torch.manual_seed(seed)
    if four_bit:
        prepare_qlora(model, RANK, ALPHA)
    else:
        attach(model, LoRA(RANK, ALPHA, "all-linear"))
    fit(model, _told("heldout", steps * rows, seed), steps=steps, lr=5e-3, batch_size=rows, schedule="cosine",
        warmup=0.05, seed=seed, progress=f"{'QLoRA' if four_bit else 'LoRA'}, seed {seed}")  # fmt: skip
    return model


def _merged(model: nn.Module) -> nn.Module:
    """A base without adapters that has LoRA's change in its weights, on top of the dequantised ones."""
    dequantise(model)
    attached(model)["default"].merge()
    plain, _ = load_base()
    merged = block_linears(model)
    for path, layer in block_linears(plain).items():
        layer.weight = merged[path].weight
    return plain


def _told(split: str, count: int, seed: int) -> list[Example]:
    """Stories, of which every token counts."""
    tokenizer = load_tokenizer()
    return [encode(tokenizer, "", story_text(story)) for story in stories(count, split, seed)]


def _spread(name: str, values: list[float]) -> str:
    return f"{name} (± {stdev(values):.2g} over {len(values)})" if len(values) > 1 else name
