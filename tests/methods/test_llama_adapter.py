"""What LLaMA-Adapter has of its own: the equation with either gate, its start, its layers, and peft's files."""

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers
from peft import AdaptionPromptConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from helpers import logits, loss, model_with, refuses, trained_numbers
from pefteach.interop import load_adapter, save_adapter
from pefteach.methods import LlamaAdapter, LoRA, activate, attach, attached
from pefteach.workshop.parity.compare import shake
from pefteach.workshop.parity.families import LLAMA, make, make_batch

PATHS = {"ours": "model.layers.1.self_attn", "llama": "model.layers.1.self_attn", "qwen2": "model.layers.1.self_attn",
         "gpt2": "transformer.h.1.attn"}  # fmt: skip


def turn(x, places, theta=10000.0):
    """RoPE of x (..., T, d), as complex numbers: pair (i, i + d/2) times e^(i · place / theta^(2i/d))."""
    half = x.shape[-1] // 2
    angle = places[..., None] / theta ** (torch.arange(half) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


def equation(attention, x, allowed, prompt, gate):
    """W_o ([g · softmax(S^K); softmax(S^T)] [V_P; V_T]) of the paper, head by head. x (B, T, D) -> (B, T, D)."""

    def project(rows):  # (.., D) -> q, k, v
        if hasattr(attention, "c_attn"):
            return (rows @ attention.c_attn.weight + attention.c_attn.bias).split(64, -1)
        return [rows @ p.weight.T + (0 if p.bias is None else p.bias)
                for p in (attention.q_proj, attention.k_proj, attention.v_proj)]  # fmt: skip

    (q, k_text, v_text), (_, k_own, v_own) = project(x), project(prompt[0])
    places = torch.arange(x.shape[1])
    turned = (lambda z: z) if hasattr(attention, "c_attn") else lambda z: turn(z, places)
    mixed = []
    for head in range(4):
        key_head = head * k_own.shape[-1] // 64  # two query heads share a key head where there are two of them
        own, shared = slice(16 * head, 16 * head + 16), slice(16 * key_head, 16 * key_head + 16)
        queries = turned(q[..., own])
        to_prompt = queries @ k_own[:, shared].T / 4  # (B, T, K)
        to_text = queries @ turned(k_text[..., shared]).transpose(1, 2) / 4
        weights = torch.cat(
            [gate[head] * to_prompt.softmax(-1), to_text.masked_fill(~allowed, -torch.inf).softmax(-1)], -1
        )
        values = torch.cat([v_own[:, shared].expand(len(x), -1, -1), v_text[..., shared]], 1)
        mixed.append(weights @ values)
    mixed = torch.cat(mixed, -1)
    if hasattr(attention, "c_attn"):
        return mixed @ attention.c_proj.weight + attention.c_proj.bias
    return mixed @ attention.o_proj.weight.T + (0 if attention.o_proj.bias is None else attention.o_proj.bias)


def compare_with_the_equation(family, gate):
    """Output, and gradients of prompts and gate, of the adapted attention of a top layer."""
    model, adapter = model_with(LlamaAdapter(5, 1, gate), family)
    prompt, own_gate = adapter.trained_tensors().values()
    seen = []
    adapted = model.get_submodule(PATHS[family])
    adapted.register_forward_hook(lambda _, args, kwargs, out: seen.append((args, kwargs, out[0])), with_kwargs=True)
    batch = make_batch(family)
    model(**batch)
    ((args, kwargs, output),) = seen
    x = (args[0] if args else kwargs["hidden_states"]).detach()
    real = batch["attention_mask"].bool()
    allowed = torch.ones(9, 9, dtype=torch.bool).tril() & real[:, None, :]  # (B, T, T)
    copies = [tensor.detach().clone().requires_grad_() for tensor in (prompt, own_gate)]
    gates = copies[1].tanh().flatten() if gate == "head" else copies[1].expand(4)
    expected = equation(adapted.base_layer, x, allowed, copies[0], gates)
    torch.testing.assert_close(output[real], expected[real], atol=1e-5, rtol=1e-5)
    weighting = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    ours = torch.autograd.grad((output * weighting)[real].sum(), [prompt, own_gate])
    theirs = torch.autograd.grad((expected * weighting)[real].sum(), copies)
    for mine, yours in zip(ours, theirs, strict=True):
        assert yours.abs().max() > 1e-4
        torch.testing.assert_close(mine, yours, atol=1e-5, rtol=1e-4)


# peft's GPT-2 with a scalar gate leaves the output projection out; parity compares with that.
@pytest.mark.parametrize(
    "family, gate", [(f, "head") for f in PATHS] + [(f, "scalar") for f in ("ours", "llama", "qwen2")]
)
def test_computes_the_papers_equation(family, gate):
    compare_with_the_equation(family, gate)


@pytest.mark.parametrize("gate", ["scalar", "head"])
def test_at_first_only_the_gate_moves(gate):
    """With g = 0 no gradient reaches the prompts; after one step of the gate it does."""
    model, batch = make("llama"), make_batch("llama")
    prompt, own_gate = attach(model, LlamaAdapter(5, 1, gate)).trained_tensors().values()
    assert own_gate.count_nonzero() == 0 and prompt.std() > 0.8, "prompts start at N(0, 1), gates at 0"
    for first in (True, False):
        loss(model, batch).backward()
        assert own_gate.grad.abs().max() > 0
        assert (prompt.grad.abs().max() == 0) == first
        with torch.no_grad():
            own_gate -= 0.1 * own_gate.grad


def test_only_the_top_layers_have_prompts():
    for layers, blocks in ((1, ["1"]), (2, ["0", "1"])):
        keys = model_with(LlamaAdapter(5, layers), "llama")[1].trained_tensors()
        assert [key.split(".")[4] for key in keys if "prompt" in key] == blocks


def test_counts_what_the_formula_says():
    for gate, count in (("scalar", 5 * 64 + 1), ("head", 5 * 64 + 4)):
        adapter = model_with(LlamaAdapter(5, 1, gate), "llama")[1]
        assert trained_numbers(adapter) == count
    llama_7b = SimpleNamespace(config=SimpleNamespace(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32))
    assert LlamaAdapter(10, 30, "head").trained_parameters(llama_7b) == 1_228_800 + 30 * 32  # the paper's 1.2 million


def test_a_lora_on_its_projections_counts_for_the_prompts_too():
    model, batch = make("llama"), make_batch("llama")
    for name, method in (("adapter", LlamaAdapter(5, 1)), ("lora", LoRA(3, 7.0, ["q_proj", "v_proj", "o_proj"]))):
        shake(attach(model, method, name).trained_tensors())
    activate(model, "adapter", "lora")
    both = logits(model, batch)
    attached(model)["lora"].merge()
    torch.testing.assert_close(logits(model, batch), both, atol=1e-5, rtol=1e-5)


def base_for_peft(family):
    """A base without o_proj's bias, which peft adds a second time, so that files can be compared."""
    model = make(family)
    if family == "llama":
        for layer in model.model.layers:
            nn.init.zeros_(layer.self_attn.o_proj.bias)
    return model


@pytest.mark.parametrize("family, path", [("llama", "model.layers.1.self_attn"), ("gpt2", "transformer.h.1.attn")])
def test_files_travel_both_ways(family, path, tmp_path):
    base, batch = base_for_peft(family), make_batch(family)
    ours, theirs, again = copy.deepcopy(base), copy.deepcopy(base), copy.deepcopy(base)
    shake(attach(ours, LlamaAdapter(5, 1)).trained_tensors())
    save_adapter(ours, tmp_path / "ours")
    shapes = {key: tuple(t.shape) for key, t in load_file(tmp_path / "ours" / "adapter_model.safetensors").items()}
    start = f"base_model.model.{path}.adaption_"
    assert shapes == {start + "prompt": (1, 5, 64), start + "gate": (1,)}
    opened = PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    torch.testing.assert_close(logits(opened, batch), logits(ours, batch), atol=1e-5, rtol=1e-5)

    config = AdaptionPromptConfig(adapter_len=5, adapter_layers=1, task_type="CAUSAL_LM")
    theirs = get_peft_model(theirs, config).eval()
    shake({name: p for name, p in theirs.named_parameters() if p.requires_grad})
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_adapter(again, tmp_path / "theirs").method == LlamaAdapter(5, 1)
    torch.testing.assert_close(logits(again, batch), logits(theirs, batch), atol=1e-5, rtol=1e-5)


def test_a_file_with_a_gate_per_head_is_ours_alone(tmp_path):
    model, adapter = model_with(LlamaAdapter(5, 1, "head"), "llama")
    save_adapter(model, tmp_path)
    with pytest.raises((ValueError, KeyError)):
        PeftModel.from_pretrained(make("llama"), tmp_path)
    other, batch = make("llama"), make_batch("llama")
    assert load_adapter(other, tmp_path).method == adapter.method
    assert torch.equal(logits(other, batch), logits(model, batch))


@pytest.mark.parametrize(
    "family, method, message",
    [
        ("llama", LlamaAdapter(0), "adapter_len must be at least 1, not 0"),
        ("llama", LlamaAdapter(5, 0), "adapter_layers must be between 1 and the model's 2, not 0"),
        ("llama", LlamaAdapter(5, 3), "adapter_layers must be between 1 and the model's 2, not 3"),
        ("llama", LlamaAdapter(gate="tanh"), "gate must be 'scalar' or 'head', not 'tanh'"),
        ("bert", LlamaAdapter(), "q_proj, .* and bert.encoder.layer.0 has attention.self.query, .*: use LoRA instead"),
        ("t5", LlamaAdapter(), r"and encoder.block.0 has layer.0.SelfAttention.q, .*: use LoRA instead"),
    ],
)
def test_refuses_what_it_cannot_do_and_changes_nothing(family, method, message):
    refuses(make(family), method, message)


def test_refuses_an_attention_that_does_more_than_it_would():
    """Qwen3 normalises its queries, so prompts scored without that would be scored wrongly."""
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**LLAMA, head_dim=16))
    with pytest.raises(ValueError, match=r"model.layers.0 has .*self_attn.q_norm, .*: use LoRA instead"):
        attach(model, LlamaAdapter())
