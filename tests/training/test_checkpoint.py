"""Killed runs go on as if nothing had happened."""

import copy

import pytest

from pefteach.methods import LoRA, attach
from pefteach.training import fit
from pefteach.training.batches import batches_of


def test_a_killed_run_goes_on_as_if_nothing_happened(model, tmp_path, examples):
    file = tmp_path / "run.safetensors"
    settings = dict(steps=8, lr=1e-2, batch_size=4, schedule="cosine", progress=None, checkpoint_seconds=0.0)
    whole, broken = copy.deepcopy(model), copy.deepcopy(model)
    full = fit(whole, examples, **settings)

    class Killed(Exception):
        pass

    asked = []

    def until(step):
        asked.append(step)
        if asked == [0, 1, 2, 3, 4, 5]:
            raise Killed
        return batches_of(examples, 4, 0)(step)

    with pytest.raises(Killed):
        fit(broken, until, checkpoint=file, **settings)
    resumed = fit(copy.deepcopy(model), until, checkpoint=file, **settings)  # a new process knows only the file
    assert asked[6:] == [5, 6, 7]
    assert resumed.losses == full.losses and [row["step"] for row in resumed.rows] == list(range(8))


def test_checkpoints_of_another_run_are_refused(model, tmp_path, examples):
    file = tmp_path / "run.safetensors"
    settings = dict(steps=2, lr=1e-2, batch_size=4, progress=None, checkpoint=file)
    fit(copy.deepcopy(model), examples, **settings)
    attach(model, LoRA(3))
    with pytest.raises(ValueError, match="belongs to another model or method"):
        fit(model, examples, **settings)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged or no training checkpoint"):
        fit(model, examples, **settings)


def test_a_run_that_reached_its_target_is_over(model, tmp_path, examples):
    how = dict(
        steps=9, lr=1e-2, metric=lambda m: 1.0, metric_every=2, target=0.5, checkpoint=tmp_path / "run.safetensors"
    )
    first = fit(model, examples, progress=None, **how)
    again = fit(model, examples, progress=None, **how)
    assert len(first.rows) == len(again.rows) == 2 and again.stopped == "target 0.5 reached at step 2"


def test_a_measurement_is_stored_with_its_step(model, tmp_path, examples):
    """Killed in the next step, the run has it."""

    def data(step):
        if step == 2 and not again:
            raise KeyboardInterrupt
        return batches_of(examples, 4, 0)(step)

    how = dict(steps=4, lr=1e-2, metric=lambda m: 1.0, metric_every=2, checkpoint=tmp_path / "run.safetensors")
    again = False
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, checkpoint_seconds=0.0, progress=None, **how)
    again = True
    assert [step for step, _ in fit(model, data, progress=None, **how).metrics] == [2, 4]
