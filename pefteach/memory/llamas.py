"""The shapes of Llamas, published ones and one of any size, and how many parameters a shape has."""

from __future__ import annotations

from pefteach.model.decoder import Config


def llama(hidden: int, layers: int, inner: int, heads: int, kv_heads: int, vocab: int, tied: bool = False) -> Config:
    """A decoder without biases, as Llama's are."""
    return Config(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=hidden // heads,
        attention_bias=False, mlp_bias=False, tie_word_embeddings=tied,
    )  # fmt: skip


MODELS = {
    "SmolLM2-135M": llama(576, 30, 1536, 9, 3, 49152, tied=True),
    "TinyLlama-1.1B": llama(2048, 22, 5632, 32, 4, 32000),
    "Llama-3.2-1B": llama(2048, 16, 8192, 32, 8, 128256, tied=True),
    "Llama-2-7B": llama(4096, 32, 11008, 32, 32, 32000),
    "Llama-3.1-8B": llama(4096, 32, 14336, 32, 8, 128256),
    "Llama-2-13B": llama(5120, 40, 13824, 40, 40, 32000),
    "Llama-2-70B": llama(8192, 80, 28672, 64, 8, 32000),
}


def llama_of_size(parameters: float) -> Config:
    """A Llama of about this many parameters, in the first Llamas' proportions: D = 128 · layers, SwiGLU of 8/3 D.

    Every head has 128 channels. 7e9 and 13e9 give exactly Llama-7B and Llama-13B.
    """
    shapes = [llama(128 * n, n, -(-128 * n * 8 // 3 // 256) * 256, n, n, 32000) for n in range(1, 161)]
    return min(shapes, key=lambda shape: abs(parameter_count(shape) - parameters))


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


def linear_layers(config: Config) -> dict[str, tuple[int, int]]:
    """(in, out) of the linear layers of one block."""
    D, inner, d = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * d, config.num_key_value_heads * d
    return {
        "q_proj": (D, queries), "k_proj": (D, keys), "v_proj": (D, keys), "o_proj": (queries, D),
        "gate_proj": (D, inner), "up_proj": (D, inner), "down_proj": (inner, D),
    }  # fmt: skip


def has_bias(config: Config, name: str) -> bool:
    """Whether the linear layer of this name has a bias."""
    return config.mlp_bias if name in FEED_FORWARD else config.attention_bias


def block_count(config: Config) -> int:
    """Parameters of one block: matrices, biases, two norms."""
    layers = linear_layers(config).items()
    return sum(fan_in * out + out * has_bias(config, n) for n, (fan_in, out) in layers) + 2 * config.hidden_size


def parameter_count(config: Config) -> int:
    """Parameters of the whole model; a tied head counts once."""
    embedding = config.vocab_size * config.hidden_size
    ends = embedding if config.tie_word_embeddings else 2 * embedding
    return ends + config.num_hidden_layers * block_count(config) + config.hidden_size
