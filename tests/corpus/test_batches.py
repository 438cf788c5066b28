"""From text to tensors and back."""

import random

import torch

from pefteach.corpus.batches import IGNORE, collate, encode, prompts
from pefteach.corpus.skills import LETTERS, by_token
from pefteach.corpus.stories import stories
from pefteach.corpus.tokenizer import SPECIAL, load_tokenizer
from pefteach.measure.knowledge import story_text


def test_text_survives_and_letters_are_single_tokens():
    tokenizer = load_tokenizer()
    assert 1900 <= tokenizer.get_vocab_size() <= 2048
    for story in stories(20, "heldout"):
        assert tokenizer.decode(tokenizer.encode(story_text(story)).ids) == story_text(story)
    assert all(len(tokenizer.encode(f" {c}").ids) == 1 for c in LETTERS)
    assert [tokenizer.token_to_id(t) for t in SPECIAL] == list(range(len(SPECIAL)))


def test_only_the_completion_and_its_end_count():
    tokenizer = load_tokenizer()
    example = encode(tokenizer, "<reverse> a b c d e f =", " f e d c b a")
    counted = [tokenizer.id_to_token(i) for i, c in zip(example.ids, example.counts) if c]
    assert counted == ["Ġf", "Ġe", "Ġd", "Ġc", "Ġb", "Ġa", "<eos>"]
    assert tokenizer.id_to_token(example.ids[0]) == "<bos>" and not example.counts[0]


def test_padding_is_masked_on_either_side():
    tokenizer = load_tokenizer()
    rows = [encode(tokenizer, *by_token(s, random.Random(0))) for s in ("copy", "double", "skip")]
    for side in ("right", "left"):
        batch = collate(rows, side=side)
        assert torch.equal(batch["attention_mask"].sum(1), torch.tensor([len(r.ids) for r in rows]))
        assert (batch["labels"][batch["attention_mask"] == 0] == IGNORE).all()
        assert torch.equal((batch["labels"] != IGNORE).sum(1), torch.tensor([sum(r.counts) for r in rows]))
    left = prompts(tokenizer, ["a b", "a b c d"])
    assert left["attention_mask"][0].tolist() == [0, 0, 1, 1, 1] and left["input_ids"][:, -1].tolist() != [0, 0]
