"""One function per promise. Each takes a case and a family, and raises AssertionError if the promise is broken."""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import logits, loss, model_with, same, snapshot, train, train_by_hand, trained_numbers
from pefteach.interop import load_adapter, save_adapter
from pefteach.methods import activate, attach, attached, detach
from pefteach.methods.core.technique import DECODERS
from pefteach.methods.selective import Selective
from pefteach.model.generation import generate
from pefteach.workshop.parity.cases import ParityCase
from pefteach.workshop.parity.compare import shake
from pefteach.workshop.parity.families import make, make_batch

# Softmax does not see a shift of all its scores, so a key's bias does nothing where positions are not rotated in.
NO_GRADIENT = {"bert": "attention.self.key.bias"}


def starts_as_the_base(case: ParityCase, family: str) -> None:
    if case.methods[family].starts_as_base:
        batch = make_batch(family)
        before = logits(make(family), batch)
        assert torch.equal(logits(model_with(case.methods[family], family, shaken=False)[0], batch), before)


def trains_exactly_what_it_says(case: ParityCase, family: str) -> None:
    expected = case.methods[family].trained_parameters(make(family))
    model, adapter = model_with(case.methods[family], family)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in adapter.trained_tensors().values()}
    assert sum(p.numel() for p in trainable) == expected, "the formula says otherwise"
    assert case.methods[family].formula, "there is no formula"


def gradients_reach_every_tensor(case: ParityCase, family: str) -> None:
    model, adapter = model_with(case.methods[family], family)
    batch = make_batch(family)
    loss(model, batch, adapter.penalty).backward()
    for key, tensor in adapter.trained_tensors().items():
        assert tensor.grad is not None, f"no gradient reaches {key}"
        if NO_GRADIENT.get(family, "nothing") not in key:
            assert tensor.grad.abs().max() > 1e-7, f"the gradient of {key} is zero"


def learns_and_gives_the_base_back(case: ParityCase, family: str) -> None:
    model, batch = make(family), make_batch(family)
    stored, before = snapshot(model), logits(model, batch)
    adapter = attach(model, case.methods[family])
    losses = train_by_hand(model, adapter, batch, steps=8)
    assert losses[-1] < losses[0], "training did not lower the loss"
    learned = logits(model, batch)
    assert not torch.allclose(learned, before)
    activate(model)
    assert torch.equal(logits(model, batch), before), "switched off, it still acts"
    activate(model, "default")
    assert torch.equal(logits(model, batch), learned), "switching lost what was learned"
    detach(model)
    assert same(model, stored), "the base is not what it was"
    assert all(p.requires_grad for p in model.parameters()) and not attached(model)


def saves_and_loads(case: ParityCase, family: str) -> None:
    model, adapter = model_with(case.methods[family], family)
    batch, other = make_batch(family), make(family)
    stored = sum(t.numel() for t in adapter.file_tensors().values())
    assert stored <= trained_numbers(adapter), "more is stored than was trained"
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, folder)
        loaded = load_adapter(other, folder)
    # A prompt encoder is stored as what it gives, so its last bit may differ from a fresh run of it.
    torch.testing.assert_close(logits(other, batch), logits(model, batch), atol=1e-6, rtol=1e-6)
    assert type(loaded.method) is type(adapter.method)
    assert loaded.file_tensors().keys() == adapter.file_tensors().keys()


def resumes_where_it_was_killed(case: ParityCase, family: str) -> None:
    if family != "ours":
        return  # the training loop is ours, and does not look at the family

    def fresh() -> nn.Module:
        torch.manual_seed(3)
        return model_with(case.methods[family], family, shaken=False)[0]

    whole, killed, resumed = fresh(), fresh(), fresh()
    train(whole, 6)

    def mortal(model: nn.Module) -> float:
        raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.safetensors"
        with pytest.raises(KeyboardInterrupt):
            train(killed, 6, checkpoint=file, checkpoint_seconds=0, metric=mortal, metric_every=3)
        history = train(resumed, 6, checkpoint=file)
    assert [row["step"] for row in history.rows] == list(range(6))
    batch = make_batch(family)
    assert torch.equal(logits(resumed, batch), logits(whole, batch)), "it is not where it would have been"


def copies_stand_on_their_own(case: ParityCase, family: str) -> None:
    model, adapter = model_with(case.methods[family], family)
    batch, twin = make_batch(family), copy.deepcopy(model)
    before = logits(model, batch)
    assert torch.equal(logits(twin, batch), before)
    with torch.no_grad():
        for tensor in adapter.trained_tensors().values():
            tensor.add_(1.0)
    assert torch.equal(logits(twin, batch), before), "the copy runs the original's adapter"
    assert not torch.equal(logits(model, batch), before)


def merges_or_refuses(case: ParityCase, family: str) -> None:
    model, adapter = model_with(case.methods[family], family)
    batch = make_batch(family)
    before = logits(model, batch)
    if not case.methods[family].can_merge:
        with pytest.raises(ValueError, match="merge"):
            adapter.merge()
        assert torch.equal(logits(model, batch), before)
        return
    adapter.merge()
    torch.testing.assert_close(logits(model, batch), before, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="merged already"):
        adapter.merge()
    adapter.unmerge()
    assert torch.equal(logits(model, batch), before), "unmerging is not bit-exact"


def generates_the_same_with_a_cache(case: ParityCase, family: str) -> None:
    if family not in DECODERS:
        return
    model, _ = model_with(case.methods[family], family)
    batch = make_batch(family)
    ids, mask = batch["input_ids"], batch["attention_mask"].flip(1)  # padded on the left
    if family == "gpt2":
        ids, mask = ids[:1], mask[:1]  # it numbers its positions over the padding too, unless it is told them
    with_cache = generate(model, ids, 6, attention_mask=mask)
    assert torch.equal(with_cache, generate(model, ids, 6, attention_mask=mask, use_cache=False))
    if family != "ours":
        theirs = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert torch.equal(theirs, with_cache), "transformers' generate gives something else"


def does_not_read_padding(case: ParityCase, family: str) -> None:
    if family == "t5":
        return  # the padding of its decoder is another matter
    model, _ = model_with(case.methods[family], family)
    batch = make_batch(family)
    row = {"input_ids": batch["input_ids"][1:2, :6], "attention_mask": torch.ones(1, 6, dtype=torch.long)}
    alone = logits(model, row)
    torch.testing.assert_close(logits(model, batch)[1:2, :6], alone, atol=1e-5, rtol=1e-5)
    pads = torch.zeros(1, 3, dtype=torch.long)
    left = {
        "input_ids": torch.cat([pads + 7, row["input_ids"]], 1),
        "attention_mask": torch.cat([pads, row["attention_mask"]], 1),
    }
    if family in ("gpt2", "bert"):  # these number their positions over the padding too, unless they are told them
        left["position_ids"] = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    torch.testing.assert_close(logits(model, left)[:, 3:], alone, atol=1e-5, rtol=1e-5)


def keeps_float32_on_a_bfloat16_base(case: ParityCase, family: str) -> None:
    model, batch = make(family).bfloat16(), make_batch(family)
    method = case.methods[family]
    adapter = attach(model, method)
    if not isinstance(method, Selective):
        assert {p.dtype for p in adapter.trained_tensors().values()} == {torch.float32}
    shake(adapter.trained_tensors())
    output = model(**batch).logits
    assert output.dtype == torch.bfloat16
    real = batch["attention_mask"].bool()
    F.cross_entropy(output[real].float(), batch["input_ids"][real]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapter.trained_tensors().values())
    exact = logits(model_with(case.methods[family], family)[0], batch)
    assert (output.float() - exact).abs().max() < 0.2 * exact.abs().max(), "half precision changes what it computes"


CHECKS: dict[str, Callable[[ParityCase, str], None]] = {
    check.__name__.replace("_", " "): check
    for check in (
        starts_as_the_base,
        trains_exactly_what_it_says,
        gradients_reach_every_tensor,
        learns_and_gives_the_base_back,
        saves_and_loads,
        resumes_where_it_was_killed,
        copies_stand_on_their_own,
        merges_or_refuses,
        generates_the_same_with_a_cache,
        does_not_read_padding,
        keeps_float32_on_a_bfloat16_base,
    )
}
