"""A run whose loss is not finite."""

import pytest
import torch

from helpers import snapshot
from pefteach.corpus.batches import collate
from pefteach.methods import LoRA, attach
from pefteach.training import TrainingDiverged, fit


def test_a_diverging_run_keeps_the_last_good_weights(model, examples):
    attach(model, LoRA(3, 7.0))
    good = []

    def data(step):
        good.append(snapshot(model))
        batch = collate(examples)
        if step == 3:  # poison the frozen base: from now on the loss is not a number
            model.model.norm.weight.data.fill_(float("nan"))
        return batch

    with pytest.raises(
        TrainingDiverged, match="the loss was nan at step 3; the weights of the step before it"
    ) as error:
        fit(model, data, steps=9, lr=1e-2, progress=None)
    assert error.value.step == 3 and len(error.value.history.rows) == 3
    for key, value in model.state_dict().items():
        if "lora_" in key:
            assert torch.equal(value, good[2][key]) and not torch.equal(value, good[3][key])
