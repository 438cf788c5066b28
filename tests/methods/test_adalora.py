"""What AdaLoRA has of its own: the allocator against peft's, the schedule, pruned tensors, refusals."""

import pytest
import torch

from helpers import model_with, refuses, train, trained_numbers
from pefteach.interop import load_adapter, save_adapter
from pefteach.methods import AdaLoRA, attach
from pefteach.methods.adalora.importance import budget
from pefteach.workshop.parity.cases import ParityCase
from pefteach.workshop.parity.compare import pair, shake
from pefteach.workshop.parity.families import make, make_batch

STEPS = 20
SCHEDULED = AdaLoRA(6, 2, 7.0, ("q_proj", "v_proj"), warmup=3 / STEPS, final=4 / STEPS, interval=2)


def left(adapter):
    """How many entries of Λ are not zero."""
    return sum(int(part.lora_E.count_nonzero()) for part in adapter.parts.values())


def test_the_allocator_is_pefts_at_every_step():
    _, adapter, reference = pair(ParityCase({"llama": SCHEDULED}), "llama")
    rng, counts = torch.Generator().manual_seed(4), []
    for step in range(STEPS):
        with torch.no_grad():
            for key, tensor in adapter.trained_tensors().items():  # what an optimiser would leave
                tensor.add_(torch.randn(tensor.shape, generator=rng) * 0.1)
                tensor.grad = torch.randn(tensor.shape, generator=rng)
                reference.peers[key].copy_(tensor)
                reference.peers[key].grad = tensor.grad.clone()
        adapter.after_step(step, STEPS)
        reference.after_step(step, STEPS)
        for key, tensor in adapter.trained_tensors().items():
            assert torch.equal(tensor, reference.peers[key]), f"{key} after step {step}"
        counts.append(left(adapter))
    # 4 layers of rank 6. Up to step 15 the choice stands for one step only; from step 16 on it is settled.
    assert counts == [24, 24, 24, 24, 20, 24, 15, 24, 11, 24, 9, 24, 8, 24, 8, 24, 8, 8, 8, 8]


def test_the_budget_falls_along_a_cubic_curve():
    path = [budget(step, 3, 16, first=24, last=8) for step in range(STEPS)]
    assert path == [24, 24, 24, 24, 20, 17, 15, 13, 11, 10, 9, 8, 8, 8, 8, 8, 8, 8, 8, 8]


def test_fit_leaves_the_target_rank_on_average():
    model, adapter = model_with(AdaLoRA(6, 2, 7.0, ("q_proj", "v_proj", "down_proj")), shaken=False)
    train(model, 12)
    assert left(adapter) == 2 * 6 and sum(int(part.kept.sum()) for part in adapter.parts.values()) == 2 * 6
    assert all(part.lora_A.shape[0] == 6 and (part.lora_A.abs().sum(1) > 0).all() for part in adapter.parts.values())


def test_an_adapter_that_is_switched_off_is_left_alone():
    model = make("ours")
    first = attach(model, AdaLoRA(4, 2, 7.0), "first")
    shake(first.trained_tensors())
    before = {key: tensor.clone() for key, tensor in first.trained_tensors().items()}
    attach(model, AdaLoRA(4, 2, 7.0), "second")
    train(model, 6)
    assert all(torch.equal(tensor, before[key]) for key, tensor in first.trained_tensors().items())


def test_learns_from_the_first_step():
    """Λ starts at zero and P and Q at small random numbers, so the first gradient reaches Λ."""
    model, batch = make("ours"), make_batch("ours")
    adapter = attach(model, AdaLoRA(5, 2, 7.0))
    model(**batch).logits.square().mean().backward()
    for part in adapter.parts.values():
        assert part.lora_E.abs().max() == 0 and part.lora_E.grad.abs().min() > 0
        assert 0.015 < part.lora_A.std() < 0.025 and 0.015 < part.lora_B.std() < 0.025


def test_the_penalty_is_the_mean_of_plain_norms():
    _, adapter = model_with(AdaLoRA(5, 2, 7.0, ("v_proj",), orthogonality=0.3), "llama")
    gaps = []
    for part in adapter.parts.values():
        for gram in (part.lora_A @ part.lora_A.T, part.lora_B.T @ part.lora_B):
            gaps.append((gram - torch.eye(5)).square().sum().sqrt())
    torch.testing.assert_close(adapter.penalty(), 0.3 * sum(gaps) / len(gaps))


def test_a_pruned_adapter_is_stored_without_what_was_dropped_and_goes_on(tmp_path):
    model, again, batch = make("ours"), make("ours"), make_batch("ours")
    adapter = attach(model, SCHEDULED)
    train(model, STEPS)
    save_adapter(model, tmp_path)
    loaded = load_adapter(again, tmp_path)
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)
    ranks = [int(part.kept.sum()) for part in adapter.parts.values()]
    assert [len(part.lora_E) for part in loaded.parts.values()] == ranks and sum(ranks) == 8
    assert trained_numbers(loaded) == loaded.method.trained_parameters(again)
    assert {part.scale for part in loaded.parts.values()} == {7.0 / (6 + 1e-5)}, "the scale follows the rank"
    assert loaded.to_peft() == adapter.to_peft() | {"tinit": 150, "tfinal": 200, "total_step": 1000}
    loaded.load_tensors(adapter.file_tensors())
    train(again, 4)
    save_adapter(again, tmp_path / "more")
    once_more = make("ours")
    load_adapter(once_more, tmp_path / "more")
    torch.testing.assert_close(once_more(**batch).logits, again(**batch).logits)


def test_nothing_is_lost_before_the_choice_is_settled(tmp_path):
    again, batch = make("ours"), make_batch("ours")
    model, adapter = model_with(SCHEDULED)
    for tensor in adapter.trained_tensors().values():
        tensor.grad = torch.ones_like(tensor)
    for step in (4, 5):  # at 4 some are dropped, at 5 they may recover
        adapter.after_step(step, STEPS)
    shake(adapter.trained_tensors())
    save_adapter(model, tmp_path)
    load_adapter(again, tmp_path)
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits, atol=0, rtol=0)


def test_filling_a_pruned_adapter_in_place(model):
    adapter = attach(model, SCHEDULED)
    train(model, STEPS)
    stored = {key: tensor.clone() for key, tensor in adapter.file_tensors().items()}
    shake(adapter.trained_tensors())
    adapter.load_tensors(stored)
    assert all(torch.equal(tensor, stored[key]) for key, tensor in adapter.file_tensors().items())


def test_a_layer_may_lose_all_its_triplets(tmp_path):
    again, batch = make("ours"), make_batch("ours")
    model, adapter = model_with(AdaLoRA(3, 1, 7.0, ("q_proj", "v_proj")))
    gone = adapter.parts["model.layers.0.self_attn.q_proj"]
    gone.kept.fill_(False)
    with torch.no_grad():
        gone.lora_E.zero_()
    save_adapter(model, tmp_path)
    loaded = load_adapter(again, tmp_path)
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)
    train(again, 3)
    loaded.merge()


def test_counts_what_the_formula_says():
    _, adapter = model_with(AdaLoRA(6, 2, 7.0, ("q_proj", "v_proj")), "llama")
    # L · Σ r (in + out + 1): q is 64 -> 64, v is 64 -> 32
    assert trained_numbers(adapter) == 2 * 6 * (64 + 64 + 1 + 64 + 32 + 1) == 2712


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000])
def test_any_length_of_training_has_a_valid_schedule(steps):
    for method in (AdaLoRA(), AdaLoRA(warmup=0.5, final=0.45), AdaLoRA(warmup=0.0, final=0.9)):
        start, end = method.phases(steps)
        assert 0 <= start < end <= steps
        assert AdaLoRA.from_peft(method.to_peft(steps)).phases(steps) == (start, end)


@pytest.mark.parametrize(
    "method, message",
    [
        (AdaLoRA(target_rank=13), "target_rank must be between 1 and initial_rank 12, not 13"),
        (AdaLoRA(target_rank=0), "target_rank must be between 1 and initial_rank 12, not 0"),
        (AdaLoRA(initial_rank=33), "rank must be between 1 and 32 for model.layers.0.self_attn.v_proj"),
        (AdaLoRA(alpha=0), "alpha must be above 0"),
        (AdaLoRA(dropout=1.0), "dropout must be at least 0 and below 1"),
        (AdaLoRA(warmup=0.6, final=0.4), "must add up to less than 1"),
        (AdaLoRA(warmup=-0.1), "must add up to less than 1"),
        (AdaLoRA(interval=0), "interval must be at least 1 step, not 0"),
        (AdaLoRA(beta1=1.0), "beta1 and beta2 must be above 0 and below 1"),
        (AdaLoRA(orthogonality=-0.5), "orthogonality must be at least 0"),
        (AdaLoRA(target_modules=["q_prj"]), "no linear layer is called 'q_prj'"),
    ],
)
def test_refuses_wrong_settings_and_changes_nothing(method, message):
    refuses(make("ours"), method, message)
