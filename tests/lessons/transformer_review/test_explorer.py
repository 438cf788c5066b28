"""The explorer of lesson 1, driven without a browser: move a control, look at the picture and the caption."""

import io

import numpy as np
import pytest
import torch
from matplotlib import image

from pefteach.corpus.tokenizer import train_tokenizer
from pefteach.lessons.transformer_review.explorer import LONGEST, attention_explorer, label
from pefteach.model.decoder import Config, Decoder

SENTENCE = "the red kite flew over the old shed"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([SENTENCE] * 3, vocab_size=400)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "head_dim": 8,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
    }
    model = Decoder(Config(vocab_size=tokenizer.get_vocab_size(), **sizes)).eval()
    with torch.no_grad():  # heads of an untrained model all look everywhere; sharpen them so that they differ
        for block in model.model.layers:
            block.self_attn.q_proj.weight.mul_(6)
    return model


@pytest.fixture
def panel(model, tokenizer):
    return attention_explorer(model, tokenizer, SENTENCE)


def shades(panel) -> int:
    """How many different colours the picture holds; a blank sheet has one."""
    pixels = image.imread(io.BytesIO(panel.image.value))[..., :3]  # (height, width, 3) in 0 … 1
    return len(np.unique((pixels * 255).astype(int) @ [1, 256, 65536]))


@pytest.mark.parametrize("name, value", [("layer", 2), ("head", 3), ("sentence", "the old kite")])
def test_every_control_changes_the_picture_and_the_caption(panel, name, value):
    picture, says = panel.image.value, panel.says
    panel.controls[name].value = value
    assert panel.image.value != picture and panel.says != says
    assert panel.image.alt == panel.says
    assert shades(panel) > 20


def test_the_caption_tells_the_model_own_weights(panel, model, tokenizer):
    """Catches layer and head exchanged, counting from one, and a forgotten <bos>."""
    panel.controls["layer"].value, panel.controls["head"].value = 2, 1
    ids = torch.tensor([[tokenizer.token_to_id("<bos>"), *tokenizer.encode(SENTENCE).ids]])
    weights = model(ids, output_attentions=True).attentions[2][0, 1, -1]
    assert panel.says.startswith("Layer 2, head 1. The last token")
    assert panel.says.endswith(f"(weight {weights.max():.2f}).")
    assert f"looks most at '{label(tokenizer, ids[0, weights.argmax()].item())}'" in panel.says


@pytest.mark.parametrize("sentence", ["", "   ", "\t"])
def test_an_empty_sentence_asks_for_one(panel, sentence):
    panel.controls["sentence"].value = sentence
    assert panel.says == "Type a sentence to see what the model looks at."
    assert shades(panel) > 2  # the picture says it, too


def test_a_long_sentence_is_told_the_room_there_is(panel):
    panel.controls["sentence"].value = "the " * 600  # also longer than the model's 512 positions
    assert panel.says.startswith("That is ") and f"room for {LONGEST}. Shorten the sentence." in panel.says
    panel.controls["sentence"].value = "the kite"
    assert panel.says.startswith("Layer 0")


@pytest.mark.parametrize("sentence", ["$x^2$", "\\frac{", "café ☃", "<reverse> a b = b a", "&lt;b&gt; %s {}", "a\nb"])
@pytest.mark.filterwarnings("error")  # a character the font lacks would warn
def test_odd_sentences_are_drawn(panel, sentence):
    panel.controls["sentence"].value = sentence
    assert panel.says.startswith("Layer 0, head 0. The last token")
    assert shades(panel) > 20


def test_what_the_font_may_lack_is_a_box(tokenizer):
    labels = [label(tokenizer, i) for i in tokenizer.encode("a kite ☃").ids]
    assert labels[0] == "a" and labels[-1] == "□"
    assert "".join(labels).startswith("a·kite·")


def test_moving_a_slider_does_not_run_the_model_again(panel, model):
    runs = []
    hook = model.register_forward_hook(lambda *_: runs.append(1))
    panel.controls["head"].value = 2
    panel.controls["layer"].value = 1
    assert not runs
    panel.controls["sentence"].value = "the red shed"
    assert len(runs) == 1
    hook.remove()


@pytest.mark.parametrize("layer, head", [(3, 0), (0, 4), (-1, 0)])
def test_a_head_that_is_not_there_is_refused(model, tokenizer, layer, head):
    with pytest.raises(ValueError, match="there are 3 layers of 4 heads, counted from 0"):
        attention_explorer(model, tokenizer, SENTENCE, layer, head)
