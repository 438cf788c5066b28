"""Formula and rehearsal give the same bytes for every method that has a formula; the others are refused by name."""

from dataclasses import dataclass, replace
from itertools import product

import pytest

from pefteach.memory import formula, what_trains
from pefteach.memory.count import Bytes
from pefteach.memory.formula import NF4, plan_step
from pefteach.memory.rehearse import rehearse_step
from pefteach.memory.what_trains import FORMULAS
from pefteach.methods import METHODS, BitFit, DoRA, FullFineTuning, LastLayers, LoRA, Norms
from pefteach.model.decoder import Config
from pefteach.workshop.parity.cases import CASES
from pefteach.workshop.parity.families import FAMILIES

BOUND = 0.01
BIASES = Config(vocab_size=256, num_hidden_layers=2)  # grouped-query attention, biases, tied head
LLAMA = replace(BIASES, attention_bias=False, mlp_bias=False, tie_word_embeddings=False)
ADAPTERS = [
    LoRA(4), LoRA(16, target_modules="all-linear"),
    *(LoRA(4, target_modules=[name]) for name in ("k_proj", "v_proj", "self_attn.o_proj", "up_proj")),
]  # fmt: skip
SELECTIVE = [
    FullFineTuning(), LastLayers(1), LastLayers(2), Norms(), BitFit(add_to=["q_proj"]), BitFit(add_to=["up_proj"]),
    BitFit(add_to=["k_proj", "mlp.down_proj"]),
]  # fmt: skip


def errors(planned: Bytes, rehearsed: Bytes) -> dict[str, float]:
    """By phase, by how much the plan misses the rehearsal, as a share of it."""
    phases = ("weights", "gradients", "optimizer", "activations", "total")
    return {phase: abs(getattr(planned, phase) / getattr(rehearsed, phase) - 1) for phase in phases}


def misses(shape, method, precision="fp32", matrix=False, batch=8, length=40, counted=None) -> dict[str, float]:
    asked = dict(precision=precision, batch=batch, length=length, attention_matrix=matrix, counted=counted)
    return errors(plan_step(shape, method, **asked), rehearse_step(shape, method, **asked))


@pytest.mark.parametrize(("shape", "matrix"), [(BIASES, False), (LLAMA, True)], ids=["biases, fused", "llama, matrix"])
@pytest.mark.parametrize(
    ("precision", "method"), [*product(("fp32", "bf16"), ADAPTERS + SELECTIVE), *product((NF4,), ADAPTERS)], ids=str
)
def test_formula_and_rehearsal_agree(precision, method, shape, matrix):
    found = misses(shape, method, precision, matrix)
    assert max(found.values()) < BOUND, found


def test_every_formula_is_among_them():
    assert {type(method) for method in ADAPTERS + SELECTIVE} == set(FORMULAS)


@pytest.mark.parametrize(("batch", "length", "counted"), [(4, 96, None), (16, 8, None), (8, 40, 20)])
def test_they_agree_at_other_sizes(batch, length, counted):
    for method, matrix in product((LoRA(4), LastLayers(2)), (False, True)):
        found = misses(LLAMA, method, "bf16", matrix, batch, length, counted)
        assert max(found.values()) < BOUND, (method, found)


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_a_method_has_a_formula_that_agrees_or_is_refused_by_name(kind):
    config = FAMILIES["ours"]().config
    methods = [case.methods["ours"] for case in CASES.values() if type(case.methods["ours"]) is kind]
    assert methods
    for method in methods:
        if kind in FORMULAS:
            found = misses(config, method)
            assert max(found.values()) < BOUND, found
        else:
            with pytest.raises(ValueError, match=f"^there is no formula for {kind.__name__}: .*rehearse_step"):
                plan_step(config, method)


def test_a_subclass_has_no_formula_of_its_parents():
    @dataclass(frozen=True)
    class Mine(LoRA):
        pass

    with pytest.raises(ValueError, match="no formula for Mine"):
        plan_step(LLAMA, Mine())


# Formulas with a mistake each, the case that shows it, and the phase that gives it away.
lora, last, bitfit = what_trains._lora, what_trains._last_layers, what_trains._bitfit
WRONG = {
    "DoRA taken for a LoRA": (DoRA, lora, dict(method=DoRA(4), shape=BIASES), "activations"),
    "only the matrices of the last blocks": (
        LastLayers, lambda c, m: replace(last(c, m), norms=False), dict(method=LastLayers(2), shape=BIASES),
        "activations",
    ),
    "gradients stop at the last blocks for BitFit": (
        BitFit, lambda c, m: replace(bitfit(c, m), blocks=1), dict(method=BitFit(), shape=BIASES), "activations",
    ),
    "new biases taken for the base's": (
        BitFit, lambda c, m: replace(bitfit(c, m), biases=frozenset()),
        dict(method=BitFit(add_to=["v_proj"]), shape=LLAMA), "activations",
    ),
    "LoRA in the base's precision": (
        LoRA, lambda c, m: replace(lora(c, m), in_float32=False), dict(method=LoRA(4), shape=LLAMA, precision="bf16"),
        "gradients",
    ),
    "LoRA's rank squared": (
        LoRA, lambda c, m: replace(lora(c, m), trained=m.rank**2), dict(method=LoRA(4), shape=LLAMA), "optimizer",
    ),
    "LoRA on the feed-forward as well": (
        LoRA, lambda c, m: lora(c, replace(m, target_modules="all-linear")), dict(method=LoRA(4), shape=LLAMA),
        "activations",
    ),
    "the inputs of LoRA's A forgotten": (
        LoRA, lambda c, m: replace(lora(c, m), low_rank=frozenset(), biases=frozenset({"q_proj", "v_proj"})),
        dict(method=LoRA(4), shape=LLAMA, precision="bf16"), "activations",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_description_is_caught(name, monkeypatch):
    kind, wrong, case, phase = WRONG[name]
    monkeypatch.setitem(FORMULAS, kind, wrong)
    assert misses(**case)[phase] > BOUND


WRONG_FORMULAS = {
    "the fused kernel in place of the matrix": (
        dict(attention_matrix=False), dict(method=LoRA(4), shape=LLAMA, matrix=True),
    ),
    "the matrix in place of the fused kernel": (dict(attention_matrix=True), dict(method=LoRA(4), shape=LLAMA)),
    "all tokens count": (dict(counted=None), dict(method=LoRA(4), shape=LLAMA, counted=20)),
    "activations in float32": (
        dict(precision=formula.PRECISIONS["fp32"]), dict(method=LoRA(4), shape=LLAMA, precision="bf16"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_FORMULAS)
def test_a_wrong_formula_of_activations_is_caught(name, monkeypatch):
    mistake, case = WRONG_FORMULAS[name]
    names = ("config", "what", "precision", "batch", "length", "attention_matrix", "counted")
    right = formula.planned_activation_bytes
    monkeypatch.setattr(
        formula, "planned_activation_bytes", lambda *given: right(**dict(zip(names, given, strict=True)) | mistake)
    )
    assert misses(**case)["activations"] > BOUND
