"""How much memory a training step will need, by formula, before anything is loaded.

The model is a decoder in the Llama layout, of any size. Weights, gradients and optimiser states are counts times
bytes. Activations follow the forward pass block by block and add what autograd keeps: an operation keeps its input
only if a gradient needs it. So a frozen linear layer keeps nothing, and whatever lies below the first trained tensor
keeps nothing either. :func:`pefteach.memory.count.measure_step` measures the same figures on a real model; the
formula agrees with it to better than one percent (with the attention matrix, up to a share of the first block).

Sources: Rajbhandari et al. 2020, "ZeRO", section 3 (16 bytes per trained parameter); Korthikanti et al. 2022,
"Reducing Activation Recomputation in Large Transformer Models", section 4 (what a block keeps).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pefteach.memory.count import Bytes
from pefteach.methods import BitFit, FullFineTuning, LastLayers, LoRA, Method, Norms
from pefteach.model.decoder import Config


@dataclass(frozen=True)
class Precision:
    """Bytes per number. ``optimizer`` is AdamW's two moments, and a float32 copy of the weights if there is one."""

    weight: int
    gradient: int
    optimizer: int
    activation: int


PRECISIONS = {
    "fp32": Precision(4, 4, 8, 4),
    "bf16": Precision(2, 2, 4, 2),  # all in bfloat16, the moments too: what torch does to a model in bfloat16
    "mixed": Precision(2, 2, 12, 2),  # bfloat16 to compute with; float32 copy and moments to update
}
NF4 = "nf4"  # QLoRA's base: the matrices of the blocks in 4 bits and frozen, the rest and the arithmetic in bfloat16


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


def of_size(parameters: float) -> Config:
    """The first Llamas' proportions at about this size: D = 128 · layers, heads of 128, SwiGLU of 8/3 D.

    With 7e9 and 13e9 it gives exactly Llama-7B and Llama-13B.
    """
    shapes = [llama(128 * n, n, -(-128 * n * 8 // 3 // 256) * 256, n, n, 32000) for n in range(1, 161)]
    return min(shapes, key=lambda shape: abs(parameter_count(shape) - parameters))


def linear_layers(config: Config) -> dict[str, tuple[int, int]]:
    """(in, out) of the linear layers of one block."""
    D, inner, d = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * d, config.num_key_value_heads * d
    return {
        "q_proj": (D, queries), "k_proj": (D, keys), "v_proj": (D, keys), "o_proj": (queries, D),
        "gate_proj": (D, inner), "up_proj": (D, inner), "down_proj": (inner, D),
    }  # fmt: skip


def _has_bias(config: Config, name: str) -> bool:
    return config.mlp_bias if name in ("gate_proj", "up_proj", "down_proj") else config.attention_bias


def block_count(config: Config) -> int:
    """Parameters of one block: matrices, biases, two norms."""
    layers = linear_layers(config).items()
    return sum(fan_in * out + out * _has_bias(config, n) for n, (fan_in, out) in layers) + 2 * config.hidden_size


def parameter_count(config: Config) -> int:
    """Parameters of the whole model; a tied head counts once."""
    embedding = config.vocab_size * config.hidden_size
    ends = embedding if config.tie_word_embeddings else 2 * embedding
    return ends + config.num_hidden_layers * block_count(config) + config.hidden_size


def weight_bytes(config: Config, precision: str) -> int:
    """Bytes of the bare model. In NF4, 64 weights share a scale of one byte, and 256 scales a float32."""
    if precision != NF4:
        return parameter_count(config) * PRECISIONS[precision].weight
    sizes = [fan_in * out for fan_in, out in linear_layers(config).values()]
    blocks = [-(-n // 64) for n in sizes]
    block = sum(-(-n // 2) + b + 4 * -(-b // 256) + 4 for n, b in zip(sizes, blocks, strict=True))  # 4: their mean
    rest = parameter_count(config) - config.num_hidden_layers * sum(sizes)
    return config.num_hidden_layers * block + rest * PRECISIONS["bf16"].weight


@dataclass(frozen=True)
class Training:
    """What a method means for memory. To plan for one more method, describe it as one of these.

    Args:
        trained: numbers that train.
        added: how many of them the base does not have.
        precision: of what is trained; None means the base's.
        blocks: how many blocks, counted from the top, gradients go through.
        inputs: linear layers whose weight trains, so that their input is kept.
        biases: linear layers whose bias alone trains: gradients start there, but no input is kept.
        low_rank: linear layers with LoRA beside them, and ``rank`` its rank.
        norms, embedding, head: whether these train.
    """

    trained: int
    added: int = 0
    precision: Precision | None = None
    blocks: int = 0
    inputs: frozenset[str] = frozenset()
    biases: frozenset[str] = frozenset()
    low_rank: frozenset[str] = frozenset()
    rank: int = 0
    norms: bool = False
    embedding: bool = False
    head: bool = False


def training(config: Config, method: Method) -> Training:
    """Describe what ``method`` trains in a model of this shape.

    Raises:
        ValueError: a method the planner does not know, or settings that do not fit the model.
    """
    layers, L, D = linear_layers(config), config.num_hidden_layers, config.hidden_size
    everything = frozenset(layers)
    match method:
        case FullFineTuning():
            return Training(parameter_count(config), blocks=L, inputs=everything, norms=True, embedding=True, head=True)
        case LastLayers(count=count) if 1 <= count <= L:
            return Training(count * block_count(config) + D, blocks=count, inputs=everything, norms=True)
        case Norms():
            return Training((2 * L + 1) * D, blocks=L, norms=True)
        case BitFit(add_to=add_to):
            _check_names(add_to, layers)
            own = {n for n in layers if _has_bias(config, n)}
            new = set(map(_last, add_to)) - own
            if not own | new:
                raise ValueError(f"this model has no biases: add zero ones with add_to=, to any of {', '.join(layers)}")
            count_own, count_new = (L * sum(layers[n][1] for n in names) for names in (own, new))
            return Training(count_own + count_new, count_new, blocks=L, biases=frozenset(own | new))
        case LoRA(rank=rank, target_modules=targets):
            names = everything if targets == "all-linear" else _check_names(targets, layers)
            added = L * sum(rank * sum(layers[n]) for n in names)
            return Training(added, added, PRECISIONS["fp32"], blocks=L, low_rank=names, rank=rank)
    raise ValueError(f"the planner has no formula for {method} on a model of {L} blocks")


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _check_names(names: str | Sequence[str], layers: dict) -> frozenset[str]:
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if _last(name) not in layers:
            raise ValueError(f"the planner knows no layer {name!r}: use 'all-linear' or any of {', '.join(layers)}")
    return frozenset(map(_last, names))


def activation_bytes(
    config: Config,
    what: Training,
    precision: Precision,
    batch: int,
    length: int,
    attention_matrix: bool = False,
    counted: int | None = None,
) -> int:
    """Bytes that autograd keeps in one forward pass. Arguments as in :func:`plan`."""
    D, inner, H, act = config.hidden_size, config.intermediate_size, config.num_attention_heads, precision.activation
    queries = H * config.head_dim

    def inputs(width: int, *names: str, kept: bool = False) -> int:
        """The input that these layers share. LoRA's A makes a float32 copy of it if the base's precision is lower."""
        low_rank = [n for n in names if n in what.low_rank]
        share = any(n in what.inputs for n in names) or (bool(low_rank) and act == 4)
        copies = len(low_rank) * width * 4 if act < 4 else 0
        return act * width * (share and not kept) + copies + len(low_rank) * what.rank * 4

    def norm(flows: bool) -> int:
        """Its input and root mean square in float32 for the gradient below; the normed input for its own scale."""
        return 4 * (D + 1) * flows + act * D * what.norms

    def trains(*names: str) -> bool:
        return any(n in names for n in what.inputs | what.biases | what.low_rank)

    if attention_matrix:  # q, k, v; the softmax in float32 and as it is multiplied with v; the mask
        attention = 3 * act * queries + H * length * (4 + (act if act < 4 else 0)) + length
    else:  # q, k, v and the result; one number per head; the mask
        attention = 4 * act * queries + 4 * H + act * length

    per_token, flows = 0, what.embedding  # flows: does the stream need a gradient yet?
    for _ in range(what.blocks):
        per_token += norm(flows) + inputs(D, "q_proj", "k_proj", "v_proj")
        reached = flows or what.norms or trains("q_proj", "k_proj", "v_proj")
        per_token += attention * reached + inputs(queries, "o_proj", kept=reached and not attention_matrix)
        flows = reached or trains("o_proj")
        per_token += norm(flows) + inputs(D, "gate_proj", "up_proj")
        gate, up = (flows or what.norms or trains(n) for n in ("gate_proj", "up_proj"))
        per_token += act * inner * (2 * gate + up) + inputs(inner, "down_proj")  # gate, up, silu(gate)
        flows = True
    per_token += norm(flows) + act * D * what.head
    counted = batch * (length - 1) if counted is None else counted
    layers = linear_layers(config)
    turned = what.blocks * sum(4 * what.rank * layers[name][1] for name in what.low_rank)  # LoRA lays B out as (r, out)
    return batch * length * per_token + turned + counted * config.vocab_size * 4  # log-probabilities, in float32


def plan(
    config: Config,
    method: Method | None,
    precision: str = "fp32",
    batch: int = 1,
    length: int = 512,
    *,
    attention_matrix: bool = False,
    counted: int | None = None,
) -> Bytes:
    """Bytes of a training step with AdamW, or of generating text.

    Args:
        config: the shape of the model: one of ``MODELS``, :func:`of_size`, or ``model.config``.
        method: how it is tuned; None for inference, where the cache of keys and values stands under activations.
        precision: of the base: a key of ``PRECISIONS``, or "nf4" with double quantisation. LoRA's matrices stay in
            float32.
        batch, length: rows and tokens per row.
        attention_matrix: the textbook computation, which keeps T x T weights per head, instead of a fused kernel.
        counted: tokens that count towards the loss; all but the first of each row by default.

    Raises:
        ValueError: an unknown precision or method, settings that do not fit, sizes below 1, or a method that trains
            the base's own weights while they are in 4 bits.
    """
    if precision not in (*PRECISIONS, NF4):
        raise ValueError(f"unknown precision {precision!r}: use one of {', '.join((*PRECISIONS, NF4))}")
    if batch < 1 or length < 1:
        raise ValueError(f"batch and length must be at least 1, not {batch} and {length}")
    base, weights = PRECISIONS["bf16" if precision == NF4 else precision], weight_bytes(config, precision)
    if method is None:
        per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim  # keys and values
        return Bytes(weights, 0, 0, batch * length * per_token * base.activation)
    what = training(config, method)
    if precision == NF4 and what.precision is None:
        raise ValueError(f"{type(method).__name__} trains the base itself, which is frozen in nf4: use LoRA, or bf16")
    own = what.precision or base
    return Bytes(
        weights + what.added * own.weight,
        what.trained * own.gradient,
        what.trained * own.optimizer,
        activation_bytes(config, what, base, batch, length, attention_matrix, counted),
    )
