"""What multitask prompt tuning has of its own: tasks per row, a default, source to target, files, refusals."""

from dataclasses import replace

import pytest
import torch

from helpers import EXAMPLES, logits, model_with, train, trained_numbers
from methods.test_prompt_tuning import ours_opens_pefts, peft_opens_ours
from pefteach.corpus.batches import collate
from pefteach.interop import load_adapter, save_adapter
from pefteach.methods import MultitaskPrompt, attach, detach, multitask_prompt
from pefteach.workshop.parity.families import make, make_batch

SOURCES = MultitaskPrompt(5, tasks=3, rank=2)
TASKS = torch.tensor([2, 0, 1])


def product(adapter, task):
    part = adapter.part
    return part.embedding.weight * (part.prefix_task_cols[task] @ part.prefix_task_rows[task])


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_files_open_in_peft_and_pefts_open_here(family, tmp_path):
    peft_opens_ours(SOURCES, family, tmp_path / "ours", {"task_ids": TASKS})
    settings = {
        "peft_type": "MULTITASK_PROMPT_TUNING", "num_virtual_tokens": 5, "num_tasks": 3, "num_ranks": 2,
        "prompt_tuning_init": "RANDOM",
    }  # fmt: skip
    adapter = ours_opens_pefts(settings, family, tmp_path / "theirs", {"task_ids": TASKS})
    assert adapter.file_tensors().keys() == {"prompt_embeddings", "prefix_task_cols", "prefix_task_rows"}


def test_a_file_keeps_the_default_task(tmp_path):
    import peft

    model, adapter = model_with(replace(SOURCES, task=1))
    batch = make_batch("ours")
    save_adapter(model, tmp_path / "one")
    adapter.task = 2
    save_adapter(model, tmp_path / "two")
    for folder, task in (("one", 1), ("two", 2)):
        other = make("ours")
        assert load_adapter(other, tmp_path / folder).task == task
        torch.testing.assert_close(logits(other, batch), logits(model, batch | {"task_ids": torch.tensor([task] * 3)}))
    with pytest.warns(UserWarning, match="'task'"):
        assert peft.PeftConfig.from_pretrained(str(tmp_path / "two")).num_tasks == 3


def test_counts_what_the_formula_says():
    adapter = attach(make("llama"), MultitaskPrompt(5, tasks=3, rank=1))
    assert trained_numbers(adapter) == 527  # n D + T r (n + D)


def test_starts_near_the_shared_prompt():
    adapter = model_with(SOURCES, shaken=False)[1]
    shared = adapter.part.embedding.weight
    for task in range(3):
        assert 0 < (product(adapter, task) - shared).norm() < 0.1 * shared.norm()


def test_every_row_gets_the_prompt_of_its_task():
    model, adapter = model_with(SOURCES)
    batch = make_batch("ours")
    together = logits(model, batch | {"task_ids": TASKS})
    for row, task in enumerate(TASKS.tolist()):
        alone = {key: t[row : row + 1] for key, t in batch.items()}
        expected = logits(model, alone | {"task_ids": torch.tensor([task])})
        torch.testing.assert_close(together[row : row + 1], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(adapter.part.vectors(TASKS)[row], product(adapter, task))
        adapter.task = task
        torch.testing.assert_close(logits(model, alone), expected)
    assert not torch.allclose(product(adapter, 0), product(adapter, 1))


def test_training_moves_the_shared_prompt_and_the_task_alone():
    model, adapter = model_with(SOURCES)
    batch = make_batch("ours")
    model(**batch, task_ids=torch.tensor([1, 1, 1])).logits.sum().backward()
    for factors in (adapter.part.prefix_task_cols, adapter.part.prefix_task_rows):
        assert [bool(g.abs().max() > 0) for g in factors.grad] == [False, True, False]
    assert adapter.part.embedding.weight.grad.abs().max() > 0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_transformers_generate_takes_the_tasks(family):
    model, adapter = model_with(SOURCES, family)
    ids = make_batch(family)["input_ids"]
    settings = {
        "attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0,
        "eos_token_id": None,
    }  # fmt: skip
    together = model.generate(input_ids=ids, task_ids=TASKS, **settings)
    slow = model.generate(input_ids=ids, task_ids=TASKS, use_cache=False, **settings)
    assert torch.equal(together, slow)
    default = model.generate(input_ids=ids, **settings)
    adapter.task = 2
    assert torch.equal(model.generate(input_ids=ids, **settings)[0], together[0])
    assert torch.equal(default[1], together[1])
    detach(model)
    with pytest.raises(ValueError, match="task_ids"):
        model.generate(input_ids=ids, task_ids=TASKS, **settings)


@pytest.mark.parametrize("task", [None, 0, 2])
def test_a_target_starts_from_the_sources(task):
    model, source = model_with(SOURCES)
    adapter = attach(
        model, MultitaskPrompt(5, tasks=1, rank=2), "target", fill=multitask_prompt.start_from(source, task)
    )
    assert torch.equal(adapter.part.embedding.weight, source.part.embedding.weight)
    for key in ("prefix_task_cols", "prefix_task_rows"):
        factors = getattr(source.part, key)
        expected = factors.mean(0) if task is None else factors[task]
        assert torch.equal(getattr(adapter.part, key)[0], expected)
    before = source.part.embedding.weight.clone()
    with torch.no_grad():
        adapter.part.embedding.weight.add_(1)
    assert torch.equal(source.part.embedding.weight, before), "the target shares its tensors with the source"


def test_source_then_target_training(tmp_path):
    """``fit`` passes the tasks of a batch to the model, and the sources may come from a file."""
    model, data = make("ours"), EXAMPLES[:6]
    sources = attach(model, SOURCES)
    before = sources.part.prefix_task_cols.detach().clone()

    def batch(step):
        return collate(data[:3]) | {"task_ids": torch.tensor([step % 2, 1, 0])}

    history = train(model, 6, batch, lr=0.05)
    assert history.losses[-1] < history.losses[0]
    moved = (sources.part.prefix_task_cols - before).abs().amax((1, 2)) > 0
    assert moved.tolist() == [True, True, False]
    save_adapter(model, tmp_path)
    other = make("ours")
    stored = load_adapter(other, tmp_path)
    attach(other, MultitaskPrompt(5, tasks=1, rank=2), "target", fill=multitask_prompt.start_from(stored))
    target = train(other, 4, data, lr=0.05, batch_size=3)
    assert target.losses[-1] < target.losses[0]


def test_refuses_what_does_not_fit():
    model, source = model_with(SOURCES)
    batch = make_batch("ours")
    for wrong in ([0, 1, 3], [0, 1, -1]):
        with pytest.raises(ValueError, match="task_ids must be between 0 and 2, one for every row, not"):
            model(**batch, task_ids=torch.tensor(wrong))
    with pytest.raises(ValueError, match="task must be between 0 and 2, not 3"):
        source.task = 3
    with pytest.raises(ValueError, match="task must be between 0 and 2, a source task, not 3"):
        multitask_prompt.start_from(source, 3)
    with pytest.raises(ValueError, match=r"prefix_task_cols is \(1, 5, 2\), here \(2, 5, 2\)"):
        attach(model, MultitaskPrompt(5, tasks=2, rank=2), "target", fill=multitask_prompt.start_from(source))
    for settings, message in (
        ({"tasks": 0}, "tasks and rank must be at least 1, not 0 and 1"),
        ({"rank": 0}, "tasks and rank must be at least 1, not 1 and 0"),
        ({"tasks": 2, "task": 2}, "task must be between 0 and 1, not 2"),
        ({"init": "zeros"}, "init must be"),
    ):
        with pytest.raises(ValueError, match=message):
            attach(model, MultitaskPrompt(5, **settings), "wrong")
