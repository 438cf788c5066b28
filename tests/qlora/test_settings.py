"""The settings' limits, and the words that they choose from."""

import pytest

from pefteach.choices import BACKENDS, OPTIMIZERS, QUANT_TYPES, SCHEDULES
from pefteach.qlora.settings import Settings
from pefteach.quant import codebook, four_bit
from pefteach.quant import load as quant_load
from pefteach.training import optimizers
from pefteach.training.schedule import learning_rate


def test_the_choices_are_those_that_there_are():
    assert all(learning_rate(5, 10, 1.0, schedule, 0.1) > 0 for schedule in SCHEDULES)
    assert quant_load.BACKENDS is BACKENDS and four_bit.QUANT_TYPES is QUANT_TYPES
    assert all(codebook(quant_type).numel() == 16 for quant_type in QUANT_TYPES)
    assert optimizers.OPTIMIZERS is OPTIMIZERS


@pytest.mark.parametrize("name", ["eval_share", "eval_every", "dropout", "warmup"])
def test_zero_is_allowed_where_it_means_none(name):
    Settings("model", "data", **{name: 0}).check()
    with pytest.raises(ValueError, match=f"{name} must be at least 0.*, not -1"):
        Settings("model", "data", **{name: -1}).check()
