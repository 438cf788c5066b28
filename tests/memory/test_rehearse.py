"""A rehearsed step against a real one: bytes by phase and the peak, for every method on three models."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from helpers import TINY
from pefteach.choices import OPTIMIZERS as QLORA_OPTIMIZERS
from pefteach.memory import count, fake_tensors
from pefteach.memory import rehearse as rehearsal
from pefteach.memory.count import Bytes, LiveBytes, measure_step, optimizer_bytes
from pefteach.memory.formula import plan_step
from pefteach.memory.llamas import MODELS
from pefteach.memory.rehearse import OPTIMIZERS, make_ready, rehearse_step
from pefteach.methods import METHODS, FullFineTuning, LoRA, attach
from pefteach.methods.qlora import prepare_qlora
from pefteach.model.decoder import Config, Decoder
from pefteach.model.recompute import recompute_blocks
from pefteach.quant import quantise
from pefteach.quant.codebooks import boundaries, codebook
from pefteach.quant.four_bit import _byte_table
from pefteach.training.peak import peak_memory
from pefteach.workshop.parity.cases import CASES
from pefteach.workshop.parity.families import FAMILIES

SHAPES = {"ours": (8, 40), "llama": (7, 48), "gpt2": (9, 36)}  # rows, tokens; llama has fewer key heads than heads
PHASES = ("weights", "gradients", "optimizer", "activations", "peak")
BOUND = 0.05
LLAMA = transformers.LlamaConfig(**TINY)


def errors(predicted: Bytes, measured: Bytes) -> dict[str, float]:
    return {phase: abs(getattr(predicted, phase) / getattr(measured, phase) - 1) for phase in PHASES}


def batch_of(rows: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 96, (rows, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


def measured(family, method, precision="fp32", checkpointing=False, inputs=None, shape=None) -> Bytes:
    """A step of a real model."""
    rows, length = shape or SHAPES[family]
    torch.manual_seed(0)
    model = FAMILIES[family]().train().to(torch.float32 if precision == "fp32" else torch.bfloat16)
    if precision == "nf4":
        quantise(model)
    make_ready(model, method)
    if checkpointing:
        recompute_blocks(model)
    return measure_step(model, batch_of(rows, length) | (inputs or {}))


def rehearsed(family, method, precision="fp32", checkpointing=False, inputs=None, shape=None) -> Bytes:
    """The same step, without the model."""
    settings = dict(precision=precision, checkpointing=checkpointing, inputs=inputs)
    return rehearse_step(FAMILIES[family]().config, method, *(shape or SHAPES[family]), **settings)


def test_the_cases_are_of_every_method():
    assert {type(case.methods["ours"]) for case in CASES.values()} == set(METHODS)


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_every_method_on_every_model(name, family):
    rows = torch.arange(SHAPES[family][0]) % 3
    case = dict(method=CASES[name].methods[family], inputs={k: v[rows] for k, v in CASES[name].inputs.items()})
    found = errors(rehearsed(family, **case), measured(family, **case))
    assert max(found.values()) < BOUND, found


@pytest.mark.parametrize(
    ("family", "method", "precision", "checkpointing"),
    [
        ("ours", "LoRA", "bf16", False),
        ("gpt2", "full fine-tuning", "bf16", False),
        ("ours", "LoRA", "nf4", False),
        ("llama", "Houlsby", "nf4", False),
        ("gpt2", "LoRA", "nf4", True),
        ("llama", "full fine-tuning", "fp32", True),
        ("llama", partial(prepare_qlora, rank=8, checkpointing=True), "nf4", False),
    ],
    ids=lambda value: "qlora" if isinstance(value, partial) else str(value),  # a function's name has its address
)
def test_every_precision_and_checkpointing(family, method, precision, checkpointing):
    method = CASES[method].methods[family] if isinstance(method, str) else method
    case = (family, method, precision, checkpointing)
    found = errors(rehearsed(*case), measured(*case))
    assert max(found.values()) < BOUND, found


def train_all(attach):
    return lambda model, method: (attach(model, method), model.requires_grad_(True))


# What is written wrong, the case that tells, and the phase that gives it away.
LLAMA_LORA = dict(family="llama", method=LoRA(4))
OURS_LORA = dict(family="ours", method=LoRA(4))
WRONG = {
    "gradients forgotten": (count, "gradient_bytes", lambda model: 0, LLAMA_LORA, "gradients"),
    "optimiser on frozen weights": (rehearsal, "attach", train_all(attach), LLAMA_LORA, "optimizer"),
    "checkpointed blocks kept": (
        rehearsal, "recompute_blocks", lambda model: None, LLAMA_LORA | dict(checkpointing=True), "activations",
    ),
    "4 bits counted as 16": (
        rehearsal, "quantise", lambda model: model, OURS_LORA | dict(precision="nf4"), "weights",
    ),
    "scales not quantised": (
        fake_tensors, "NestedAbsmax", lambda codes, *rest: codes.float(), OURS_LORA | dict(precision="nf4"), "weights",
    ),
    "workspace of the optimiser forgotten": (
        torch.optim, "AdamW", partial(torch.optim.AdamW, foreach=False),
        dict(family="ours", method=FullFineTuning(), shape=(1, 4)), "peak",
    ),
    "peak without what backward makes": (
        LiveBytes, "peak", property(lambda self: self.now, lambda self, value: None), OURS_LORA, "peak",
    ),
    "what the loss keeps forgotten": (
        count, "next_token_loss", lambda logits, labels: logits.sum(), OURS_LORA, "activations",
    ),
    "a tied head counted twice": (
        rehearsal, "Decoder", lambda config: Decoder(replace(config, tie_word_embeddings=False)), OURS_LORA, "weights",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rehearsal_is_caught(name, monkeypatch):
    place, what, wrong, case, phase = WRONG[name]
    real = measured(**case)
    assert errors(rehearsed(**case), real)[phase] < BOUND
    if what == "AdamW":
        monkeypatch.setitem(OPTIMIZERS, "adamw", wrong)
    else:
        monkeypatch.setattr(place, what, wrong, raising=False)
    assert errors(rehearsed(**case), real)[phase] > BOUND


def test_a_tied_head_weighs_once():
    config = FAMILIES["ours"]().config
    tied, untied = (
        rehearse_step(replace(config, tie_word_embeddings=tie), LoRA(4), 2, 8).weights for tie in (True, False)
    )
    assert untied - tied == 2 * config.vocab_size * config.hidden_size
    for tie in (True, False):
        peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY, tie_word_embeddings=tie))
        attach(peer, LoRA(4))
        assert rehearse_step(peer.config, LoRA(4), 3, 9, precision="fp32").weights == count.weight_bytes(peer)


@pytest.mark.parametrize("counted", [5, 300])
def test_only_tokens_that_count_cost_log_probabilities(counted):
    config, batch = Config(**TINY | {"vocab_size": 512}), batch_of(8, 40)
    model = Decoder(config).train()
    labels = torch.full((8 * 39,), -100)
    labels[:counted] = 7
    batch["labels"] = torch.cat([torch.full((8, 1), -100), labels.view(8, 39)], 1)
    attach(model, LoRA(4))
    measured = measure_step(model, batch)
    found = errors(rehearse_step(config, LoRA(4), 8, 40, precision="fp32", counted=counted), measured)
    assert max(found.values()) < BOUND, found
    assert (
        errors(rehearse_step(config, LoRA(4), 8, 40, precision="fp32", counted=305 - counted), measured)["peak"] > BOUND
    )


@pytest.mark.parametrize("bits", [8, 32])
def test_the_optimisers_states_are_those_of_bitsandbytes(bits):
    bnb = pytest.importorskip("bitsandbytes")
    sizes, dtypes = (100, 4095, 4096, 10_000), (torch.float32, torch.bfloat16)
    made = []
    for maker in (partial(bnb.optim.AdamW, optim_bits=bits), partial(fake_tensors.StatesOfAdamW, bits=bits)):
        parameters = [nn.Parameter(torch.randn(n).to(dtype)) for n in sizes for dtype in dtypes]
        optimizer = maker(parameters, lr=0.0)
        for place, p in enumerate(parameters):
            p.grad = torch.zeros_like(p)
            if hasattr(optimizer, "init_state"):
                optimizer.init_state(optimizer.param_groups[0], p, 0, place)
        if not hasattr(optimizer, "init_state"):
            optimizer.step()
        made.append(optimizer_bytes(optimizer))
    assert made[0] == made[1]


def test_optimisers_cost_what_they_say():
    config = transformers.LlamaConfig(**MODELS["SmolLM2-135M"].to_dict() | {"num_hidden_layers": 1})
    step = {name: rehearse_step(config, LoRA(192), 1, 8, optimizer=name) for name in OPTIMIZERS}
    count = step["adamw"].gradients // 4
    assert step["adamw"].optimizer == pytest.approx(8 * count, rel=1e-3) and step["adamw"].paged == 0
    assert step["paged-adamw-32bit"].optimizer == 8 * count
    assert step["paged-adamw-8bit"].optimizer == step["adamw-8bit"].optimizer == pytest.approx(2 * count, rel=0.02)
    # A of q (192, 576), B of q (576, 192), A of v (192, 576): all above 100,000. B of v (192, 192) stays.
    small = 192 * 192
    assert step["paged-adamw-8bit"].paged == 2 * (count - small)
    assert step["paged-adamw-32bit"].paged == 8 * (count - small)


def test_every_optimiser_of_qlora_can_be_rehearsed():
    assert set(QLORA_OPTIMIZERS) <= set(OPTIMIZERS)


def test_a_large_model_takes_no_memory_and_the_formula_agrees():
    shape = replace(MODELS["Llama-2-70B"], num_hidden_layers=2)
    before = peak_memory(torch.device("cpu"))
    found, planned = rehearse_step(shape, LoRA(8), 2, 512), plan_step(shape, LoRA(8), "bf16", 2, 512)
    assert found.weights > 4 * 10**9 and peak_memory(torch.device("cpu")) - before < 10**9
    assert (found.weights, found.gradients) == (planned.weights, planned.gradients)
    assert found.activations == pytest.approx(planned.activations, rel=0.01)


def test_nothing_leaks_out_of_a_rehearsal():
    for cache in (codebook, boundaries, _byte_table):
        cache.cache_clear()
    swap, trunc = torch.utils.swap_tensors, torch.nn.init._no_grad_trunc_normal_
    model = FAMILIES["ours"]().eval()
    batch = {key: tensor for key, tensor in batch_of(2, 8).items() if key != "labels"}
    before = model(**batch).logits
    rehearse_step(model.config, LoRA(4), 2, 8, precision="nf4")
    rehearse_step(LLAMA, partial(prepare_qlora, rank=4), 2, 8)  # quantises by itself
    with pytest.raises(ValueError, match="cannot recompute its blocks"):
        rehearse_step(model.config, LoRA(4), 2, 8, checkpointing=True)
    assert torch.equal(model(**batch).logits, before) and not isinstance(torch.empty(1), FakeTensor)
    assert (swap, trunc) == (torch.utils.swap_tensors, torch.nn.init._no_grad_trunc_normal_)
    logits = quantise(model)(**batch).logits
    assert not isinstance(logits, FakeTensor) and logits.isfinite().all() and not torch.equal(logits, before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(precision="int8"), "unknown precision 'int8': use one of fp32, bf16, nf4"),
        (dict(optimizer="sgd"), "no optimiser is called 'sgd'"),
        (dict(batch=0), "at least 1 row of 2 tokens, not 0 of 8"),
        (dict(length=1), "at least 1 row of 2 tokens, not 2 of 1"),
        (dict(length=65), "longer than the 64 positions"),
        (dict(counted=15), "1 to 14 can count, not 15"),
        (dict(method=LoRA(4, target_modules=["query"])), "no linear layer is called 'query'"),
        (dict(method=FullFineTuning(), precision="nf4"), "in few bits"),
        (dict(config=transformers.T5Config()), "no causal model for a T5Config"),
        (
            dict(config=transformers.MixtralConfig(**TINY, num_local_experts=2, num_experts_per_tok=1)),
            "Mixtral cannot be rehearsed, because its shapes depend on its numbers",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_rehearsed_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        rehearse_step(**{"config": LLAMA, "method": LoRA(4), "batch": 2, "length": 8, **wrong})


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_the_peak_is_what_a_gpu_says(precision):
    config = transformers.LlamaConfig(**MODELS["TinyLlama-1.1B"].to_dict() | {"max_position_embeddings": 512})
    method = LoRA(16, target_modules="all-linear")
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()
    if precision == "nf4":
        quantise(model)
    attach(model, method)
    batch = {key: tensor.cuda() for key, tensor in batch_of(4, 512).items()}
    measure_step(model, batch)  # the first one also loads kernels and their workspace
    torch.cuda.reset_peak_memory_stats()
    measured = measure_step(model, batch)
    peak = torch.cuda.max_memory_allocated() - before
    predicted = rehearse_step(config, method, 4, 512, precision=precision)
    assert predicted.peak == pytest.approx(peak, rel=BOUND)
    assert max(errors(predicted, measured).values()) < BOUND
