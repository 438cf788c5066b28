"""Write the ``MODEL_CARD.md`` of a base, and measure every figure in it."""

from __future__ import annotations

import json
from pathlib import Path

from pefteach.corpus.stories import plots
from pefteach.measure.knowledge import examine_base
from pefteach.model.base import load_base

CARD = """# Model card: the base of the course

A decoder in the Llama layout with {parameters:,} parameters (grouped-query attention, biases on, tied embeddings;
`config.json` has the sizes). It tells short stories for children and does exact string tasks. It exists to be
fine-tuned in a lesson, in seconds, on a laptop. `transformers.LlamaForCausalLM` and `pefteach.model.decoder.Decoder`
open it with equal logits.

## Data
All of it is made by this repository; see `data/stories/DATA_CARD.md`. Stories are told from {train_plots} hand-written
plots; {heldout} more are held out. Skills are asked for by a task token (`<reverse> a b c d e f =`)
or by worked examples. Only answers count towards the loss of a skill.

## Recipe
`pefteach pretrain`, in stages of {rows} rows × {length} tokens a step; AdamW, cosine, seed {seed}. The same seed on
the same machine with as many threads gives the same weights; the run that ships changed its threads on the way.
Shares are of documents: in the first fifth of the stage, then in the rest.

| stage | steps | peak learning rate | first | then |
|---|---|---|---|---|
{stages}

## What it knows
Measured by `pefteach card` on problems and stories that training did not draw. Exact match: every letter right.

| skill | by its token | by worked examples |
|---|---|---|
{skills}

| stories | loss (nats per token) | bound from the generator |
|---|---|---|
| new stories of known plots | {known_loss:.3f} | {known_bound:.3f} |
| held-out plots | {new_loss:.3f} | {new_bound:.3f} |

The bound is the entropy of the generator's choices per token; the text is a function of them and cannot be more
surprising. It can be reached only for plots that the model has seen.

Asked to finish a story from its title and first 20 words (temperature 0.7), {ended:.0%} of its stories end by
themselves, {on_plot:.0%} of what it writes is a wording of that story's own plot, and {hero_kept:.0%} of its
endings name the hero again ({hero_kept_as_told:.0%} do in the stories as told).

## Limits
From worked examples it does not tell a copy from the next letter, and it does not keep track of names: a hero may be
called something else in the next sentence. Both need a look back by content rather than by distance; a longer run
should bring it.

It knows {train_plots} plots, a few thousand words and strings of six letters, and nothing else. It has no knowledge of
the world and follows no instructions. Results on it are toy results: they show how a method works, not how well it
does on a large model.
"""


def write_card(folder: Path) -> dict:
    """Measure the base in a folder, write ``figures.json`` and ``MODEL_CARD.md`` beside it, return the figures.

    Raises:
        FileNotFoundError, ValueError: the base is missing or damaged.
    """
    folder = Path(folder)
    figures = examine_base(*load_base(folder))
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    mixture = lambda shares: ", ".join(f"{share:.0%} {kind}" for kind, share in shares.items())
    stages = [
        f"| {s['name']} | {s['steps']:,} | {s['lr']} | {mixture(s['first'])} | {mixture(s['later'])} |"
        for s in recipe.pop("stages")
    ]
    rows = [
        f"| {skill} | {figures['skills_by_token'][skill]:.3f} | {figures['skills_by_examples'][skill]:.3f} |"
        for skill in figures["skills_by_token"]
    ]
    card = CARD.format(
        **recipe,
        **figures["written"],
        stages="\n".join(stages),
        parameters=figures["parameters"],
        train_plots=len(plots("train")),
        heldout=len(plots("heldout")),
        skills="\n".join(rows),
        known_loss=figures["stories"]["loss"],
        known_bound=figures["stories"]["generator_bound"],
        new_loss=figures["heldout_plots"]["loss"],
        new_bound=figures["heldout_plots"]["generator_bound"],
    )
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    return figures
