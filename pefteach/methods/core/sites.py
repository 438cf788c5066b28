"""Find the modules inside a block that bottleneck adapters wrap, in any family of models.

A block has two halves. In each, x is the residual stream that enters, h is the output of the attention or the
feed-forward, and the block passes their sum on. BERT normalises that sum, Llama and GPT-2 normalise x on its way in.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import nn

from pefteach.methods.core.targets import find_blocks
from pefteach.model.modules import base_modules


@dataclass(frozen=True)
class Sites:
    """Modules of a block, by name.

    Attributes:
        attention: its output is h of the attention, alone or first in a tuple.
        feed_forward: its output is h of the feed-forward, likewise.
        stream: its only input is x of the feed-forward.
        norm: its input is x + h of the feed-forward, in blocks that normalise the sum.
    """

    attention: str
    feed_forward: str
    stream: str
    norm: str | None = None


SITES = {  # the children of a block: its sites
    # Llama, Mistral, Qwen2, the course's decoder
    "self_attn, mlp, input_layernorm, post_attention_layernorm": Sites("self_attn", "mlp", "post_attention_layernorm"),
    # GPT-2
    "ln_1, attn, ln_2, mlp": Sites("attn", "mlp", "ln_2"),
    # BERT, RoBERTa
    "attention, intermediate, output": Sites(
        "attention.output.dropout", "output.dropout", "intermediate", "output.LayerNorm"
    ),
    # DistilBERT
    "attention, sa_layer_norm, ffn, output_layer_norm": Sites("attention", "ffn", "ffn.lin1", "output_layer_norm"),
}


def find_sites(model: nn.Module, given: Sites | None = None) -> dict[str, Sites]:
    """The sites of every block, by the block's path, first to last.

    Args:
        given: the sites of blocks that ``SITES`` does not list.

    Raises:
        ValueError: a block is unknown and no sites are given, or a given module does not exist.
    """
    found = {}
    for path, block in find_blocks(model).items():
        holds = [name for name, _ in block.named_children()]
        sites = given or next((sites for key, sites in SITES.items() if {*key.split(", ")} == {*holds}), None)
        if sites is None:
            raise ValueError(
                f"{path} holds {', '.join(holds)}, and the known blocks hold {', or '.join(SITES)}: "
                "say with sites=Sites(...) which of its modules are the attention, the feed-forward and the way into it"
            )
        inside = {name for name, _ in base_modules(block)}
        for name in asdict(sites).values():
            if name is not None and name not in inside:
                raise ValueError(f"sites= names {name!r}, which is not in {path}: it holds {', '.join(holds)}")
        found[path] = sites
    return found
