"""Counting parameters: tied tensors once, and nothing lost between the kinds."""

from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from pefteach.measure.parameters import Count, count_by_kind, count_parameters, kind_of
from pefteach.methods import LoRA, Norms, attach


def test_counts_are_those_of_transformers():
    for tied in (True, False):  # counting names instead of tensors would be wrong for one of them
        config = LlamaConfig(
            vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=tied,
        )  # fmt: skip
        peer = LlamaForCausalLM(config)
        peer.model.embed_tokens.weight.requires_grad_(False)
        ours = count_parameters(peer)
        assert ours == Count(peer.num_parameters(), peer.num_parameters(only_trainable=True))
        assert (ours.trainable == ours.total - 96 * 64) and (kind_of("lm_head.weight") == "embeddings")


def test_kinds_add_up_to_the_whole(model):
    attach(model, LoRA(rank=4))
    kinds, whole = count_by_kind(model), count_parameters(model)
    assert sum(c.total for c in kinds.values()) == whole.total
    assert sum(c.trainable for c in kinds.values()) == whole.trainable
    assert kinds["added"] == Count(2 * 4 * (64 + 64 + 64 + 32), 2 * 4 * (64 + 64 + 64 + 32))
    assert kinds["embeddings"] == Count(96 * 64, 0)  # once, though the head has it too
    assert kinds["norms"] == Count(5 * 64, 0)
    assert "other" not in kinds


def test_only_what_trains_counts_as_trainable(model):
    attach(model, Norms())
    kinds = count_by_kind(model)
    assert {kind: c.trainable for kind, c in kinds.items() if c.trainable} == {"norms": 5 * 64}
    assert count_parameters(model).share == 5 * 64 / count_parameters(model).total


def test_gpt2_names_are_understood():
    kinds = count_by_kind(GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2)))
    assert kinds["embeddings"].total == (50 + 16) * 32 and kinds["norms"].total == 5 * 64
    assert set(kinds) == {"embeddings", "norms", "attention", "feed-forward"}


def test_an_empty_model_has_no_share():
    assert count_parameters(nn.Identity()) == Count(0, 0) and Count(0, 0).share == 0
