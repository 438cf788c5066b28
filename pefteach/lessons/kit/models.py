"""Small models that exercises are tried on."""

from __future__ import annotations

from pefteach.model.decoder import Config, Decoder


def tiny_decoder(blocks: int, tied: bool, trains: str) -> Decoder:
    """A decoder of a few thousand weights.

    Args:
        trains: a part of the names of the parameters that require gradients: "" for all, "none" for none.
    """
    model = Decoder(
        Config(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=blocks, num_attention_heads=2,
               num_key_value_heads=1, head_dim=4, tie_word_embeddings=tied)
    )  # fmt: skip
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains in name)
    return model
