"""The planner's formulas against a real step, a real model and published sizes."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pefteach.memory.count import measure_step
from pefteach.memory.formula import plan_step
from pefteach.memory.llamas import MODELS, llama_of_size, parameter_count
from pefteach.methods import BitFit, FullFineTuning, LastLayers, LoRA, Norms, attach
from pefteach.model.decoder import Config, Decoder
from pefteach.quant import quantise

SHAPE = Config(vocab_size=256, num_hidden_layers=3)  # grouped-query attention, biases, tied head
LLAMA = replace(SHAPE, attention_bias=False, mlp_bias=False, tie_word_embeddings=False)
METHODS = [
    FullFineTuning(), LastLayers(1), LastLayers(2), Norms(), BitFit(), LoRA(4), LoRA(4, target_modules="all-linear"),
    *(LoRA(4, target_modules=[name]) for name in ("o_proj", "mlp.down_proj", "gate_proj")),
]  # fmt: skip
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def rows(batch: int = 8, length: int = 24) -> tuple[dict, int]:
    """A batch with padding on one row, and how many tokens count."""
    ids = torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(0))
    mask, labels = torch.ones_like(ids), ids.clone()
    mask[0, 15:], labels[0, 15:], labels[:, :6] = 0, -100, -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}, int((labels[:, 1:] != -100).sum())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", [SHAPE, LLAMA], ids=["biases", "llama"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_plan_is_what_a_real_step_measures(method, shape, precision):
    if method == BitFit() and shape is LLAMA:
        method = BitFit(add_to=["q_proj", "down_proj"])
    model, (batch, counted) = Decoder(shape).to(DTYPES[precision]), rows()
    attach(model, method)
    measured = measure_step(model, batch)
    planned = plan_step(shape, method, precision, 8, 24, counted=counted)
    assert planned.weights == measured.weights
    assert planned.gradients == measured.gradients
    trained = sum(p.requires_grad for p in model.parameters())
    assert planned.optimizer == measured.optimizer - 4 * trained  # the step counters
    assert planned.activations == pytest.approx(measured.activations, rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "method", [FullFineTuning(), LastLayers(2), BitFit(), LoRA(4, target_modules="all-linear")], ids=str
)
def test_the_attention_matrix_is_what_a_real_step_measures(method, precision):
    model, (batch, counted) = Decoder(SHAPE).to(DTYPES[precision]), rows(length=48)
    attach(model, method)
    measured = measure_step(model, batch, output_attentions=True)
    planned = plan_step(SHAPE, method, precision, 8, 48, attention_matrix=True, counted=counted)
    assert planned.activations == pytest.approx(measured.activations, rel=0.01)


@pytest.mark.parametrize("shape", [SHAPE, LLAMA], ids=["biases", "llama"])
@pytest.mark.parametrize("method", [LoRA(4), LoRA(4, target_modules="all-linear")], ids=str)
def test_qlora_is_what_a_real_step_measures(method, shape):
    model, (batch, counted) = quantise(Decoder(shape).to(torch.bfloat16)), rows()
    attach(model, method)
    measured = measure_step(model, batch)
    planned = plan_step(shape, method, "nf4", 8, 24, counted=counted)
    assert (planned.weights, planned.gradients) == (measured.weights, measured.gradients)
    assert planned.activations == pytest.approx(measured.activations, rel=0.01)
    sixteen = plan_step(shape, method, "bf16", 8, 24, counted=counted)
    assert replace(planned, weights=0) == replace(sixteen, weights=0)  # 4 bits save weights, and nothing else


def test_four_bits_cost_what_the_paper_says():
    shape = replace(MODELS["Llama-2-7B"], vocab_size=1)  # blocks, and hardly anything else
    bits = 8 * plan_step(shape, None, "nf4").weights / parameter_count(shape)
    assert bits == pytest.approx(4.127, abs=0.002)  # 4.5 without double quantisation
    whole = MODELS["Llama-2-7B"]
    ends = 2 * 2 * whole.vocab_size * whole.hidden_size  # embedding and head, two bytes each
    assert plan_step(whole, None, "nf4").weights == pytest.approx(
        4.127 / 8 * (parameter_count(whole) - ends / 2) + ends, rel=1e-3
    )


@pytest.mark.parametrize("method", [FullFineTuning(), LastLayers(2), Norms(), BitFit(add_to=["q_proj"])], ids=str)
def test_a_base_in_four_bits_does_not_train(method):
    with pytest.raises(ValueError, match=f"{type(method).__name__} trains the base itself, which is frozen in nf4"):
        plan_step(MODELS["Llama-2-7B"], method, "nf4")


def test_inference_holds_weights_and_the_cache():
    model, (batch, _) = Decoder(SHAPE).to(torch.bfloat16), rows()
    with torch.no_grad():
        cache = model(batch["input_ids"], use_cache=True).past_key_values
    planned = plan_step(SHAPE, None, "bf16", 8, 24)
    assert planned.activations == sum(t.nbytes for pair in cache.pairs for t in pair)
    assert planned.weights == sum(p.nbytes for p in model.parameters()) and planned.gradients == planned.optimizer == 0


def test_published_sizes():
    published = {
        "SmolLM2-135M": 134_515_008, "TinyLlama-1.1B": 1_100_048_384, "Llama-3.2-1B": 1_235_814_400,
        "Llama-2-7B": 6_738_415_616, "Llama-3.1-8B": 8_030_261_248, "Llama-2-13B": 13_015_864_320,
        "Llama-2-70B": 68_976_648_192,
    }  # fmt: skip
    assert {name: parameter_count(shape) for name, shape in MODELS.items()} == published


@pytest.mark.parametrize("name", ["SmolLM2-135M", "Llama-2-70B"])
def test_named_shapes_are_those_of_transformers(name):
    with torch.device("meta"):  # shapes without memory
        peer = LlamaForCausalLM(LlamaConfig(**MODELS[name].to_dict()))
    assert parameter_count(MODELS[name]) == peer.num_parameters()


def test_a_size_becomes_a_llama():
    assert llama_of_size(7e9) == MODELS["Llama-2-7B"] and llama_of_size(13e9) == MODELS["Llama-2-13B"]
    for size in (1e9, 3e9, 30e9, 65e9, 100e9):
        assert parameter_count(llama_of_size(size)) == pytest.approx(size, rel=0.1)


def test_sixteen_bytes_per_trained_parameter_either_way():
    shape, count = MODELS["Llama-2-7B"], parameter_count(MODELS["Llama-2-7B"])
    for precision in ("fp32", "mixed"):
        full = plan_step(shape, FullFineTuning(), precision)
        assert full.weights + full.gradients + full.optimizer == 16 * count
        lora, added = plan_step(shape, LoRA(8), precision), 32 * 2 * 8 * (4096 + 4096)
        frozen = {"fp32": 4, "mixed": 2}[precision] * count
        assert lora.weights + lora.gradients + lora.optimizer == frozen + 16 * added


def test_activations_grow_with_the_tokens_and_not_with_the_trained_parameters():
    shape = MODELS["TinyLlama-1.1B"]
    small, large = (plan_step(shape, LoRA(r), "bf16", 4, 512) for r in (1, 64))
    assert large.gradients == 64 * small.gradients and large.activations < 1.3 * small.activations
    assert plan_step(shape, LoRA(1), "bf16", 8, 512).activations > 1.99 * small.activations


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(precision="int4"), "unknown precision 'int4'"),
        (dict(batch=0), "at least 1"),
        (dict(length=0), "at least 1"),
        (dict(method=BitFit()), "no biases"),
        (dict(method=BitFit(add_to=["query"])), "no layer 'query'"),
        (dict(method=LoRA(target_modules=["layers.0.self_attn.q_proj"])), "no layer 'layers.0.self_attn.q_proj'"),
        (dict(method=LoRA(target_modules=".*q_proj")), "a list of q_proj, .*, not '.\\*q_proj'"),
        (dict(method=LoRA(target_modules=[])), r"not \[\]"),
        (dict(method=LoRA(rank=5000)), "rank must be between 1 and 4096 for these layers, not 5000"),
        (dict(method=LoRA(dropout=0.1)), "LoRA without dropout: set dropout=0, or ask rehearse_step"),
        (dict(method=LoRA(target_modules=["query"])), "no layer 'query'"),
        (dict(method=LastLayers(33)), "count must be between 1 and the model's 32 blocks, not 33"),
        (dict(method="lora"), "no formula for 'lora'"),
    ],
)
def test_what_cannot_be_planned_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        plan_step(**{"config": MODELS["Llama-2-7B"], "method": LoRA(8), **wrong})
