"""LLaMA-Adapter, as people get it wrong."""

import torch
from torch import nn
from torch.nn import functional as F

from methods import test_llama_adapter as particular
from mutants.mutant import Mutant, in_half_precision
from pefteach.methods import llama_adapter
from pefteach.methods.core.positions import NumberingPart
from pefteach.methods.llama_adapter import LlamaAdapterPart
from pefteach.model.decoder import Config, RotaryEmbedding, rotate


def replacing(name, wrong):
    return lambda patch: patch.setattr(LlamaAdapterPart, name, wrong)


def gating(change):
    """Change the queries (B, H, T, d), keys and values (1, G, K, d) before they meet."""
    right = LlamaAdapterPart.gated
    return replacing("gated", lambda self, q, k, v: right(self, *change(self, q, k, v)))


def after_init(change):
    right = LlamaAdapterPart.__init__

    def wrong(self, model, method):
        right(self, model, method)
        change(self, model)

    return replacing("__init__", wrong)


def spread(self, q, k, v):
    """Repeat keys and values for every query head and row."""
    shared_by = q.shape[1] // k.shape[1]
    return [z.repeat_interleave(shared_by, 1).expand(len(q), -1, -1, -1) for z in (k, v)]


def one_softmax(self, call, *args, **kwargs):
    """One softmax over prompts and text together, and the gate after it."""
    _, *others = call(*args, **kwargs)
    x, angles, mask = kwargs["hidden_states"], kwargs["position_embeddings"], kwargs["attention_mask"]
    q, (own_k, own_v) = self.queries(call, x, angles), self.keys_and_values(call, x.dtype)
    k = rotate(self.heads(call.k_proj(x)), *(a[:, None] for a in angles))
    own_k, own_v, k, v = (*spread(self, q, own_k, own_v), *spread(self, q, k, self.heads(call.v_proj(x))))
    causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril() if mask is None else mask
    text = (q @ k.transpose(2, 3) / 4).masked_fill(~causal, -torch.inf)
    weights = torch.cat([q @ own_k.transpose(2, 3) / 4, text], -1).softmax(-1)
    gate = torch.cat([self.gate() * torch.ones(own_k.shape[2]), torch.ones(k.shape[2])])
    mixed = (gate * weights) @ torch.cat([own_v, v], 2)
    return call.o_proj(mixed.transpose(1, 2).flatten(2)), *others


def gate_on_the_scores(self, q, k, v):
    return F.scaled_dot_product_attention(self.gate() * q, *spread(self, q, k, v))


def causal_prompts(self, q, k, v):
    return self.gate() * F.scaled_dot_product_attention(q, *spread(self, q, k, v), is_causal=True)


def unscaled_scores(self, q, k, v):
    return self.gate() * F.scaled_dot_product_attention(q, *spread(self, q, k, v), scale=1.0)


def heads_in_turn(self, q, k, v):
    """Query heads 0, 2 share a key head and 1, 3 the other."""
    k, v = (z.repeat(len(q), q.shape[1] // k.shape[1], 1, 1) for z in (k, v))
    return self.gate() * F.scaled_dot_product_attention(q, k, v)


def straight_through(self, q, k, v):
    """The same value, but prompts learn before the gate has opened."""
    mixed = F.scaled_dot_product_attention(q, *spread(self, q, k, v))
    return self.gate().to(q.dtype) * mixed + 0.1 * (mixed - mixed.detach())


def prompts_turned(self, q, k, v):
    angles = RotaryEmbedding(Config(head_dim=self.d))(torch.arange(k.shape[2])[None])
    return q, rotate(k, *angles), v


def values_not_projected(self, attention, dtype):
    prompt = self.adaption_prompt.to(dtype)
    k = attention.k_proj(prompt)
    return self.heads(k), self.heads(prompt[..., : k.shape[-1]])


def queries_not_turned(self, attention, x, angles):
    return self.heads(attention.q_proj(x))


def around_other_adapters(self, attention, x, angles):
    layer = getattr(attention.q_proj, "base_layer", attention.q_proj)
    return rotate(self.heads(layer(x)), *(a[:, None] for a in angles))


def bottom_layers(patch):
    right = llama_adapter.find_attentions
    patch.setattr(llama_adapter, "find_attentions", lambda model: right(model)[::-1])


def random_gate(self, model):
    nn.init.normal_(self.adaption_gate, std=0.1)


def detached_prompts(self, attention, dtype):
    prompt = self.adaption_prompt.detach().to(dtype)
    return self.heads(attention.k_proj(prompt)), self.heads(attention.v_proj(prompt))


def first_heads_gate(self):
    return self.adaption_gate.tanh()[:, :1]


def not_numbered(patch):
    patch.setattr(NumberingPart, "forward", lambda self, call, *args, **kwargs: call(*args, **kwargs))


def lets_tanh_and_linear_mix_in_files(patch):
    patch.setattr(llama_adapter.LlamaAdapter, "to_peft", lambda self: {
        "peft_type": "ADAPTION_PROMPT", "adapter_len": self.adapter_len,
        "adapter_layers": self.adapter_layers})  # fmt: skip


def equation_on_llama():
    particular.test_computes_the_papers_equation("llama", "head")


def equation_on_gpt2():
    particular.test_computes_the_papers_equation("gpt2", "head")


def first_step():
    particular.test_at_first_only_the_gate_moves("scalar")


SCALAR, HEAD = "LLaMA-Adapter", "LLaMA-Adapter, gate per head"
MUTANTS = [
    Mutant("takes one softmax over prompts and text", SCALAR, replacing("forward", one_softmax)),
    Mutant("puts the gate on the scores", SCALAR, replacing("gated", gate_on_the_scores)),
    Mutant("starts the gate random", SCALAR, after_init(random_gate)),
    Mutant("starts the gate random", HEAD, after_init(random_gate)),
    Mutant("turns the prompts by RoPE", SCALAR, gating(prompts_turned)),
    Mutant("does not project the prompts' values", SCALAR, replacing("keys_and_values", values_not_projected)),
    Mutant("leaves o_proj out", SCALAR, replacing("project", lambda self, attention, mixed: mixed)),
    Mutant("leaves c_proj out, as peft does", HEAD, replacing("project", lambda self, attention, mixed: mixed), "gpt2",
           checks=(equation_on_gpt2,)),
    Mutant("adds o_proj's bias twice, as peft does", SCALAR,
           replacing("project", lambda self, attention, mixed: attention.o_proj(mixed))),
    Mutant("takes the bottom layers", SCALAR, bottom_layers),
    Mutant("hides the prompts behind the causal mask", SCALAR, replacing("gated", causal_prompts)),
    Mutant("lets the prompts learn while the gate is shut", SCALAR, replacing("gated", straight_through),
           checks=(first_step,)),
    Mutant("lets no gradient reach the prompts", SCALAR, replacing("keys_and_values", detached_prompts)),
    Mutant("puts tanh on peft's gate", SCALAR, replacing("gate", lambda self: self.adaption_gate.tanh())),
    Mutant("leaves the tanh out", HEAD, replacing("gate", lambda self: self.adaption_gate),
           checks=(equation_on_llama,)),
    Mutant("gives all heads the first one's gate", HEAD, replacing("gate", first_heads_gate),
           checks=(equation_on_llama,)),
    Mutant("does not scale the scores by 1/√d", SCALAR, replacing("gated", unscaled_scores)),
    Mutant("shares key heads in turn", SCALAR, replacing("gated", heads_in_turn)),
    Mutant("leaves the queries unturned", SCALAR, replacing("queries", queries_not_turned)),
    Mutant("goes around a LoRA on q_proj", SCALAR, replacing("queries", around_other_adapters),
           checks=(particular.test_a_lora_on_its_projections_counts_for_the_prompts_too,)),
    Mutant("numbers the text over its padding", SCALAR, not_numbered),
    Mutant("keeps the prompts in the base's half precision", SCALAR, in_half_precision(llama_adapter.LlamaAdapter)),
    Mutant("saves a gate per head as if it were peft's", HEAD, lets_tanh_and_linear_mix_in_files),
]  # fmt: skip
