"""The explorer of lesson 1: what any head of any layer looks at, in any sentence."""

from __future__ import annotations

from functools import lru_cache

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from tokenizers import Tokenizer
from torch import Tensor

from pefteach.corpus.batches import prompts
from pefteach.lessons.kit.panel import Panel
from pefteach.lessons.transformer_review.figures import draw_attention_map, draw_message
from pefteach.model.base import load_base
from pefteach.model.decoder import Decoder

LONGEST = 24  # tokens: more labels than that nobody can read


def attention_explorer(model: Decoder, tokenizer: Tokenizer, sentence: str, layer: int = 0, head: int = 0) -> Panel:
    """A text box, a layer and a head over the attention weights of ``model``. Layers and heads count from 0.

    Raises:
        ValueError: no such layer or head.
    """
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    if not (0 <= layer < layers and 0 <= head < heads):
        raise ValueError(
            f"no layer {layer} with a head {head}: there are {layers} layers of {heads} heads, counted from 0"
        )

    @lru_cache(maxsize=1)  # moving a slider must not run the model again
    def look(sentence: str) -> tuple[Tensor, list[str]]:
        ids = prompts(tokenizer, [sentence])["input_ids"]
        with torch.no_grad():
            weights = torch.stack(model(ids, output_attentions=True).attentions)[:, 0]  # (layers, H, T, T)
        return weights, [label(tokenizer, i) for i in ids[0].tolist()]

    def draw(figure: Figure, sentence: str, layer: int, head: int) -> str:
        if not sentence.strip():
            return draw_message(figure, "Type a sentence to see what the model looks at.")
        count = len(tokenizer.encode(sentence).ids)
        if count > LONGEST:
            return draw_message(
                figure, f"That is {count} tokens; the picture has room for {LONGEST}. Shorten the sentence."
            )
        weights, labels = look(sentence)
        return f"Layer {layer}, head {head}. " + draw_attention_map(figure, weights[layer, head], labels)

    return Panel(
        draw,
        question="Which earlier tokens does this head read, and could you guess its job?",
        look_for="a diagonal just below the middle (a head that looks at the token before), a stripe further down (a "
        "head that looks a fixed number of places back), and a bright first column (a head with nothing to do rests on "
        "<bos>).",
        size=(6.0, 5.0),
        sentence=widgets.Text(sentence, description="Sentence"),
        layer=widgets.IntSlider(layer, 0, layers - 1, description="Layer"),
        head=widgets.IntSlider(head, 0, heads - 1, description="Head"),
    )


def example() -> Panel:
    """One on the base, for whoever times or tests every explorer."""
    model, tokenizer = load_base()
    return attention_explorer(model, tokenizer, "once upon a time there was a small cat")


def label(tokenizer: Tokenizer, token_id: int) -> str:
    """A token as it can stand at an axis: its blank as a low dot, what the font lacks as a box."""
    text = tokenizer.decode([token_id], skip_special_tokens=False).replace(" ", "·").replace("\n", "↵")
    return "".join(c if (c.isascii() and c.isprintable()) or c in "·↵" else "□" for c in text)
