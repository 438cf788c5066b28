"""Hard prompt search: where the prompt goes, what the gradient says, that the best is kept."""

import pytest
import torch

from pefteach.corpus.batches import Example, collate
from pefteach.methods import hard_prompt
from pefteach.methods.core.technique import DECODERS
from pefteach.methods.hard_prompt import search, with_prompt
from pefteach.model.loss import next_token_loss
from pefteach.workshop.parity.families import make

START = [5, 17, 40]


def make_data():
    """Rows of two lengths, so that one is padded."""
    rows = [range(3, 12), range(20, 26), range(50, 59)]
    return collate([Example(tuple(row), (False,) * 3 + (True,) * (len(row) - 3)) for row in rows])


def loss_with(model, ids, skip=0):
    batch = with_prompt(make_data(), torch.tensor(ids), skip)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return next_token_loss(logits, batch["labels"]).item()


@pytest.mark.parametrize("skip", [0, 1])
def test_puts_the_prompt_where_it_is_told(skip):
    batch = make_data()
    longer = with_prompt(batch, torch.tensor(START), skip)
    inside = slice(skip, skip + 3)
    assert longer["input_ids"][:, inside].tolist() == [START] * 3
    assert (longer["labels"][:, inside] == -100).all() and (longer["attention_mask"][:, inside] == 1).all()
    for key, rows in batch.items():
        assert torch.equal(torch.cat([longer[key][:, :skip], longer[key][:, skip + 3 :]], 1), rows)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("by", ["gradient", "greedy"])
def test_never_worse_than_the_start_and_the_same_for_a_seed(family, by):
    model = make(family)
    first, again = (search(model, make_data(), START, steps=5, by=by, candidates=6, seed=3) for _ in range(2))
    assert first == again
    losses = [row["loss"] for row in first.history]
    assert losses == sorted(losses, reverse=True) and first.loss == losses[-1]
    assert first.loss < loss_with(model, START), "five steps found nothing better"
    assert first.loss == pytest.approx(loss_with(model, first.ids), abs=1e-6), "the loss is not that of the tokens"
    assert first.history[-1]["forwards"] == 1 + 5 * (6 + (by == "gradient"))


def test_another_seed_takes_another_way():
    model = make("ours")
    ways = {tuple(search(model, make_data(), START, steps=4, by="greedy", candidates=4, seed=s).ids) for s in range(4)}
    assert len(ways) > 1


def test_keeps_the_start_if_nothing_is_better():
    model = make("ours")
    best = search(model, make_data(), START, steps=12, by="greedy", candidates=None)
    stays = search(model, make_data(), best.ids, steps=3, by="greedy", candidates=None)
    assert stays.ids == best.ids and stays.loss == best.loss
    assert search(model, make_data(), START, steps=0).ids == START


def test_trying_everything_finds_the_best_token():
    model = make("ours")
    found = search(model, make_data(), [5], steps=1, by="greedy", candidates=None)
    losses = [loss_with(model, [token]) for token in range(96)]
    assert found.ids == [losses.index(min(losses))]
    assert search(model, make_data(), [5], steps=1, candidates=None).ids == found.ids


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("family", DECODERS)
def test_the_gradient_is_that_of_the_loss(family, skip):
    """Move one place of every row a little towards another token's embedding and see what the loss does."""
    model, ids = make(family).double(), torch.tensor(START)
    gradient = hard_prompt._gradient(model, make_data(), ids, skip).double()
    table = model.get_input_embeddings().weight.detach()
    batch = with_prompt(make_data(), ids, skip)
    text = model.get_input_embeddings()(batch["input_ids"]).detach()

    def loss(text):
        with torch.no_grad():
            logits = model(inputs_embeds=text, attention_mask=batch["attention_mask"]).logits.double()
        predicted, wanted = logits[:, :-1], batch["labels"][:, 1:]
        return torch.nn.functional.cross_entropy(predicted[wanted != -100], wanted[wanted != -100])

    for place, token in ((0, 60), (2, 11)):
        towards = table[token] - table[ids[place]]
        ahead, behind = text.clone(), text.clone()
        ahead[:, skip + place] += 1e-3 * towards
        behind[:, skip + place] -= 1e-3 * towards
        measured = (loss(ahead) - loss(behind)) / 2e-3
        assert measured.item() == pytest.approx((towards @ gradient[place]).item(), rel=1e-2, abs=1e-4)


def test_the_gradient_points_to_better_tokens_than_chance():
    """Averaged over starts, the few tokens that it proposes have a lower loss than a random few."""
    model, rng = make("ours"), torch.Generator().manual_seed(0)
    table, better = model.get_input_embeddings().weight.detach(), 0
    for _ in range(10):
        start = torch.randint(96, (3,), generator=rng).tolist()
        gradient = hard_prompt._gradient(model, make_data(), torch.tensor(start), 0)[1]
        proposed = (table @ gradient).topk(5, largest=False).indices.tolist()
        drawn = torch.randint(96, (5,), generator=rng).tolist()
        mean = lambda tokens, s=start: sum(loss_with(model, [s[0], t, s[2]]) for t in tokens) / 5
        better += mean(proposed) < mean(drawn)
    assert better >= 8


@pytest.mark.parametrize("by", ["gradient", "greedy"])
def test_uses_allowed_tokens_only_and_leaves_the_model_as_it_was(by):
    model = make("ours").train()
    allowed = {5, 17, 40, 60, 61, 62}
    found = search(model, make_data(), START, steps=4, by=by, allowed=sorted(allowed), skip=1)
    assert set(found.ids) <= allowed and model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"by": "magic"}, "by must be 'gradient' or 'greedy', not 'magic'"),
        ({"start": []}, r"start must be one or more token ids from 0 to 95, not \[\]"),
        ({"start": [96]}, r"start must be one or more token ids from 0 to 95, not \[96\]"),
        ({"allowed": []}, "allowed must be one or more token ids"),
        ({"candidates": 0}, "candidates must be at least 1 and steps at least 0, not 0 and 2"),
        ({"steps": -1}, "candidates must be at least 1 and steps at least 0, not 16 and -1"),
    ],
)
def test_refuses_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        search(make("ours"), make_data(), **{"start": START, "steps": 2} | settings)
