"""How much memory a training step will need, by formula, before anything is loaded.

The model is a decoder in the Llama layout, of any size. Weights, gradients and optimiser states are counts times
bytes. Activations follow the forward pass block by block and add what autograd keeps: an operation keeps its input
only if a gradient needs it. So a frozen linear layer keeps nothing, and whatever lies below the first trained tensor
keeps nothing either.

:func:`pefteach.memory.count.measure_step` measures the same bytes on a real model, and
:func:`pefteach.memory.rehearse.rehearse_step` without one. The formula agrees with both to better than one percent,
for the methods in :mod:`pefteach.memory.what_trains` and batches of a few rows. It leaves out what does not grow with
the rows (the angles of the positions), the token ids, and AdamW's step counters.

Sources: Rajbhandari et al. 2020, "ZeRO", section 3 (16 bytes per trained parameter); Korthikanti et al. 2022,
"Reducing Activation Recomputation in Large Transformer Models", section 4 (what a block keeps).
"""

from __future__ import annotations

from dataclasses import dataclass

from pefteach.memory.count import Bytes
from pefteach.memory.llamas import linear_layers, parameter_count
from pefteach.memory.what_trains import Training, what_trains
from pefteach.methods import Method
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


def planned_weight_bytes(config: Config, precision: str) -> int:
    """Bytes of the bare model. In NF4, 64 weights share a scale of one byte, and 256 scales a float32."""
    if precision != NF4:
        return parameter_count(config) * PRECISIONS[precision].weight
    sizes = [fan_in * out for fan_in, out in linear_layers(config).values()]
    blocks = [-(-n // 64) for n in sizes]
    block = sum(-(-n // 2) + b + 4 * -(-b // 256) + 4 for n, b in zip(sizes, blocks, strict=True))  # 4: their mean
    rest = parameter_count(config) - config.num_hidden_layers * sum(sizes)
    return config.num_hidden_layers * block + rest * PRECISIONS["bf16"].weight


def planned_activation_bytes(
    config: Config,
    what: Training,
    precision: Precision,
    batch: int,
    length: int,
    attention_matrix: bool = False,
    counted: int | None = None,
) -> int:
    """Bytes that autograd keeps in one forward pass. Arguments as in :func:`plan_step`."""
    D, inner, H, act = config.hidden_size, config.intermediate_size, config.num_attention_heads, precision.activation
    queries = H * config.head_dim

    def inputs(width: int, *names: str, kept: bool = False) -> int:
        """The input that these layers share. LoRA's A makes a float32 copy of it if the base's precision is lower."""
        low_rank = [n for n in names if n in what.low_rank]
        share = any(n in what.inputs for n in names) or (bool(low_rank) and act == 4)
        copies = len(low_rank) * width * 4 if act < 4 else 0
        return act * width * (share and not kept) + copies + len(low_rank) * what.rank * 4

    def norm(needs_grad: bool) -> int:
        """Its input and root mean square in float32 for the gradient below; the normed input for its own scale."""
        return 4 * (D + 1) * needs_grad + act * D * what.norms

    def attention(q: bool, k: bool, v: bool) -> int:
        """What attention keeps if q, k, v need gradients. Their heads are repeated first, so all are as wide as q."""
        if not attention_matrix:  # the fused kernel keeps all or nothing: q, k, v, result; a number per head; the mask
            return (4 * act * queries + 4 * H + act * length) * (q or k or v)
        scores = q or k
        softmax = 4 * scores + act * v if act < 4 else 4 * (scores or v)  # in float32; as it is multiplied with v
        # k for the gradient of q, q for that of k, v for that of the softmax; the mask
        return act * queries * (q + k + scores) + H * length * softmax + length * scores

    def trains(*names: str) -> bool:
        return any(n in names for n in what.inputs | what.biases | what.low_rank)

    per_token, needs_grad = 0, what.embedding  # needs_grad: does the stream need a gradient yet?
    for _ in range(what.blocks):
        per_token += norm(needs_grad) + inputs(D, "q_proj", "k_proj", "v_proj")
        q, k, v = (needs_grad or what.norms or trains(name) for name in ("q_proj", "k_proj", "v_proj"))
        reached = q or k or v
        per_token += attention(q, k, v) + inputs(queries, "o_proj", kept=reached and not attention_matrix)
        needs_grad = reached or trains("o_proj")
        per_token += norm(needs_grad) + inputs(D, "gate_proj", "up_proj")
        gate, up = (needs_grad or what.norms or trains(name) for name in ("gate_proj", "up_proj"))
        per_token += act * inner * (2 * gate + up) + inputs(inner, "down_proj")  # gate, up, silu(gate)
        needs_grad = True
    per_token += norm(needs_grad) + act * D * what.head
    counted = batch * (length - 1) if counted is None else counted
    layers = linear_layers(config)
    turned = what.blocks * sum(4 * what.rank * layers[name][1] for name in what.low_rank)  # LoRA lays B out as (r, out)
    return batch * length * per_token + turned + counted * config.vocab_size * 4  # log-probabilities, in float32


def plan_step(
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
        config: the shape of the model: one of ``MODELS``, :func:`~pefteach.memory.llamas.llama_of_size`, or
            ``model.config``.
        method: how it is tuned; None for inference, where the cache of keys and values stands under activations.
        precision: of the base: a key of ``PRECISIONS``, or "nf4" with double quantisation. LoRA's matrices stay in
            float32.
        batch, length: rows and tokens per row.
        attention_matrix: the textbook computation, which keeps T x T weights per head, instead of a fused kernel.
        counted: tokens that count towards the loss; all but the first of each row by default.

    Raises:
        ValueError: an unknown precision, a method without a formula, settings that do not fit, sizes below 1, or a
            method that trains the base's own weights while they are in 4 bits.
    """
    if precision not in (*PRECISIONS, NF4):
        raise ValueError(f"unknown precision {precision!r}: use one of {', '.join((*PRECISIONS, NF4))}")
    if batch < 1 or length < 1:
        raise ValueError(f"batch and length must be at least 1, not {batch} and {length}")
    base, weights = PRECISIONS["bf16" if precision == NF4 else precision], planned_weight_bytes(config, precision)
    if method is None:
        per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim  # keys and values
        return Bytes(weights, 0, 0, batch * length * per_token * base.activation)
    what = what_trains(config, method)
    if precision == NF4 and not what.in_float32:
        raise ValueError(f"{type(method).__name__} trains the base itself, which is frozen in nf4: use LoRA, or bf16")
    own = PRECISIONS["fp32"] if what.in_float32 else base
    return Bytes(
        weights + what.added * own.weight,
        what.trained * own.gradient,
        what.trained * own.optimizer,
        planned_activation_bytes(config, what, base, batch, length, attention_matrix, counted),
    )
