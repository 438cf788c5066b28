"""What full fine-tuning, the last blocks, norms and BitFit each have of their own."""

import pytest
import torch
from torch import nn

from helpers import train
from pefteach.corpus.batches import IGNORE
from pefteach.measure.parameters import count_parameters
from pefteach.methods import BitFit, FullFineTuning, LastLayers, Norms, attach
from pefteach.model.loss import next_token_loss
from pefteach.workshop.parity.families import make


def test_a_tied_head_counts_once():
    model = make("ours")
    block = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128 + (64 + 2 * 32 + 64 + 2 * 128 + 64) + 2 * 64
    assert count_parameters(model).total == 96 * 64 + 2 * block + 64
    attach(model, FullFineTuning())
    assert count_parameters(model).trainable == count_parameters(model).total


def test_only_the_answer_counts():
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[IGNORE, IGNORE, 4, 5], [IGNORE, 6, IGNORE, IGNORE]])
    wanted = -(logits[0, 1].log_softmax(-1)[4] + logits[0, 2].log_softmax(-1)[5] + logits[1, 0].log_softmax(-1)[6]) / 3
    torch.testing.assert_close(next_token_loss(logits, labels), wanted)


def test_decay_spares_norms_and_biases():
    model = make("ours")
    attach(model, FullFineTuning())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    # So little learning that only decay can be seen: lr 1, but every gradient is clipped to nothing.
    train(model, steps=1, lr=1e-3, weight_decay=100.0, clip=1e-30)
    for name, p in model.named_parameters():
        shrink = ((before[name] - p.detach()).norm() / before[name].norm()).item()
        assert shrink == pytest.approx(0.1 if p.ndim > 1 else 0.0, abs=0.01), name


def test_dropout_acts_while_training():
    class Probe(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.modes = make("ours"), []

        def forward(self, **batch):
            self.modes.append(self.training)
            return self.model(**batch)

    probe = Probe().eval()
    train(probe, steps=2, lr=1e-3)
    assert probe.modes == [True, True] and not probe.training


def test_the_last_block_and_the_final_norm_are_chosen():
    chosen = set(attach(make("llama"), LastLayers(1)).trained_tensors())
    assert {name.split(".")[2] for name in chosen if ".layers." in name} == {"1"}
    assert "model.norm.weight" in chosen and not any("embed" in name or "lm_head" in name for name in chosen)


def test_nothing_is_learned_below_the_last_block():
    model = make("llama")
    attach(model, LastLayers(1))
    ids = torch.randint(3, 96, (2, 9))
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is None for name, p in model.named_parameters() if "layers.0." in name or "embed" in name)


def test_bitfit_trains_biases_alone():
    for family in ("ours", "llama", "gpt2", "bert"):
        chosen = attach(make(family), BitFit()).trained_tensors()
        assert all(name.endswith("bias") and p.ndim == 1 for name, p in chosen.items())
    assert len(attach(make("qwen2"), BitFit()).trained_tensors()) == 2 * 3  # Qwen2 has them on q, k and v alone


def test_bitfit_on_bare_layers_starts_from_zero_and_says_so_if_there_are_none():
    t5 = make("t5")
    with pytest.raises(ValueError, match="this model has no biases: add zero ones with add_to=, to any of q, k, v"):
        attach(t5, BitFit())
    assert all(p.eq(0).all() for p in attach(t5, BitFit(("q", "wo"))).trained_tensors().values())


def test_norms_are_found_by_kind_in_every_family():
    counts = {
        family: len(attach(make(family), Norms()).trained_tensors()) for family in ("ours", "llama", "gpt2", "bert")
    }
    assert counts == {"ours": 5, "llama": 5, "gpt2": 10, "bert": 12}  # GPT-2's and BERT's have a shift each
