"""LoRA equals peft's on four families of models, and refuses what makes no sense."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pefteach.interop import load_adapter, save_adapter
from pefteach.methods import LoRA, adapters, attach, detach
from pefteach.methods.lora import LoRAPart
from tiny import randomise

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GPT2 = GPT2Config(
    vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
)
BERT = BertConfig(**SIZES, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
FAMILIES = {
    "llama": (
        lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, attention_bias=True, mlp_bias=True)),
        ["q_proj", "v_proj", "down_proj"],
    ),
    "qwen2": (lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2)), ["k_proj", "o_proj", "up_proj"]),
    "gpt2": (lambda: GPT2LMHeadModel(GPT2), ["c_attn", "mlp.c_proj"]),
    "bert": (lambda: BertForMaskedLM(BERT), ["query", "value", "intermediate.dense"]),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    """A model of another library, and targets that are not all square."""
    make, targets = FAMILIES[request.param]
    torch.manual_seed(0)
    return randomise(make()).eval(), targets


def pair(base, targets, rank=3, alpha=7.0, **settings):
    """Our adapter and peft's on two copies of a base, with the same random A and B."""
    ours, theirs = base, copy.deepcopy(base)
    adapter = attach(ours, LoRA(rank, alpha, targets, **settings))
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0, use_rslora=settings.get("rslora", False),
        fan_in_fan_out=isinstance(base, GPT2LMHeadModel),
    )  # fmt: skip
    theirs = get_peft_model(theirs, config).eval()
    peers = {n.replace(".default", ""): p for n, p in theirs.named_parameters() if "lora_" in n}
    assert adapter.tensors().keys() == peers.keys()
    dice = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in adapter.tensors().items():
            parameter.copy_(torch.randn(parameter.shape, generator=dice) * 0.1)
            peers[key].copy_(parameter)
    return ours, adapter, theirs, peers


def logits(model, batch):
    return model(**batch).logits[batch["attention_mask"].bool()]


def loss(model, batch):
    return F.cross_entropy(logits(model, batch), batch["input_ids"][batch["attention_mask"].bool()])


def largest(a, b) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("rslora", [False, True], ids=["alpha/r", "alpha/sqrt(r)"])
def test_forward_gradients_and_merge_equal_peft(family, batch, rslora):
    ours, adapter, theirs, peers = pair(*family, rslora=rslora)
    assert largest(logits(ours, batch), logits(theirs, batch)) <= 1e-5
    loss(ours, batch).backward()
    loss(theirs, batch).backward()
    for key, parameter in adapter.tensors().items():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, f"no gradient reaches {key}"
        assert largest(parameter.grad, peers[key].grad) <= 1e-5, key
    before = logits(ours, batch)
    adapter.merge()
    merged = {k.replace("base_layer.", ""): v for k, v in ours.state_dict().items() if ".parts." not in k}
    plain = theirs.merge_and_unload()
    for key, weight in plain.state_dict().items():
        assert largest(merged[key], weight) <= 1e-5, key
    assert largest(logits(ours, batch), before) <= 1e-5


WRONG = {
    "scales the frozen path too": lambda self, call, x: self.scale * (call(x) + self.lora_B(self.lora_A(x))),
    "forgets the scale": lambda self, call, x: call(x) + self.lora_B(self.lora_A(x)),
    "alpha instead of alpha/r": lambda self, call, x: call(x) + 7.0 * self.lora_B(self.lora_A(x)),
    "adds the update twice": lambda self, call, x: call(x) + 2 * self.scale * self.lora_B(self.lora_A(x)),
    "subtracts the update": lambda self, call, x: call(x) - self.scale * self.lora_B(self.lora_A(x)),
    "no gradient to A": lambda self, call, x: call(x) + self.scale * self.lora_B(self.lora_A(x).detach()),
    "forgets the base": lambda self, call, x: self.scale * self.lora_B(self.lora_A(x)),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_parity_sees_a_fault(batch, monkeypatch, wrong):
    make, targets = FAMILIES["llama"]
    monkeypatch.setattr(LoRAPart, "forward", wrong)
    with pytest.raises(AssertionError):
        test_forward_gradients_and_merge_equal_peft((randomise(make()).eval(), targets), batch, False)


WRONG_MERGES = {
    "unscaled": lambda self, layer: layer.weight + self.lora_B.weight @ self.lora_A.weight,
    "only the update": lambda self, layer: self.delta_weight(),
}


@pytest.mark.parametrize("wrong", WRONG_MERGES.values(), ids=WRONG_MERGES)
def test_merge_parity_sees_a_fault(batch, monkeypatch, wrong):
    make, targets = FAMILIES["llama"]
    monkeypatch.setattr(LoRAPart, "merged_weight", wrong)
    with pytest.raises(AssertionError):
        test_forward_gradients_and_merge_equal_peft((randomise(make()).eval(), targets), batch, False)


def test_files_travel_both_ways(family, batch, tmp_path):
    base, targets = family
    bare, again = copy.deepcopy(base), copy.deepcopy(base)
    ours, _, theirs, _ = pair(base, targets)
    save_adapter(ours, tmp_path / "ours")
    with torch.no_grad():
        opened = PeftModel.from_pretrained(bare, tmp_path / "ours").eval()
        assert largest(logits(opened, batch), logits(ours, batch)) <= 1e-5
        theirs.save_pretrained(tmp_path / "theirs")
        load_adapter(again, tmp_path / "theirs", name="from_peft")
        assert largest(logits(again, batch), logits(theirs, batch)) <= 1e-5


def test_starts_as_the_base_and_trains_b_first(model, batch):
    before = model(**batch).logits
    adapter = attach(model, LoRA(3, 7.0, ("q_proj", "v_proj")))
    assert torch.equal(model(**batch).logits, before)
    loss(model, batch).backward()
    for key, parameter in adapter.tensors().items():
        if "lora_B" in key:
            assert parameter.grad.abs().max() > 0, "B cannot leave zero"
        else:
            assert parameter.abs().max() > 0 and parameter.grad.abs().max() == 0


def test_counts_what_the_formula_says(model):
    adapter = attach(model, LoRA(4, 8.0, ("q_proj", "v_proj")))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # L · Σ r (in + out): q is 64 -> 64, v is 64 -> 32
    assert trained == sum(p.numel() for p in adapter.tensors().values()) == 2 * 4 * (64 + 64 + 64 + 32)


def test_dropout_only_touches_the_update(model, batch):
    adapter = attach(model, LoRA(3, 7.0, ("q_proj",), dropout=0.5))
    model.train()
    before = model(**batch).logits
    torch.testing.assert_close(before, model(**batch).logits)  # B is zero: the frozen path sees every input
    with torch.no_grad():
        for key, p in adapter.tensors().items():
            if "lora_B" in key:
                p.normal_()
    assert not torch.allclose(model(**batch).logits, model(**batch).logits)
    model.eval()
    torch.testing.assert_close(model(**batch).logits, model(**batch).logits)


def test_bfloat16_base_keeps_float32_adapters(model, batch):
    model.bfloat16()
    adapter = attach(model, LoRA(3, 7.0))
    assert {p.dtype for p in adapter.tensors().values()} == {torch.float32}
    assert model(**batch).logits.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "method, message",
    [
        (LoRA(rank=0), "rank must be between 1 and 64"),
        (LoRA(rank=33, target_modules=["v_proj"]), "rank must be between 1 and 32 for model.layers.0.self_attn.v_proj"),
        (LoRA(alpha=0), "alpha must be above 0, not 0"),
        (LoRA(alpha=-4.0), "alpha must be above 0, not -4"),
        (LoRA(dropout=1.0), "dropout must be at least 0 and below 1"),
        (LoRA(target_modules=["v_prj"]), "no linear layer is called 'v_prj'; this model has: v_proj, "),
        (LoRA(target_modules="model.layers.[7].*"), "no linear layer is called"),
        (LoRA(target_modules=[]), "target_modules is empty"),
    ],
)
def test_refuses_wrong_settings_and_changes_nothing(model, method, message):
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        attach(model, method)
    assert list(model.state_dict()) == keys and not adapters(model)
    assert all(p.requires_grad for p in model.parameters())


def test_all_linear_leaves_out_the_head(model):
    attach(model, LoRA(3, 7.0, "all-linear"))
    assert len(adapters(model)["default"].parts) == 2 * 7
    detach(model)
    attach(model, LoRA(3, 7.0, r"model\.layers\.1\..*_proj"))
    assert len(adapters(model)["default"].parts) == 7
