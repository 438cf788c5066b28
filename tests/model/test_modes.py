"""Modes end with their block."""

import pytest

from pefteach.model.modes import eval_mode, train_mode


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("mode", "inside"), [(train_mode, True), (eval_mode, False)])
def test_a_mode_is_put_back_even_after_an_error(model, mode, inside, before):
    model.train(before)
    with pytest.raises(KeyError), mode(model):
        assert all(module.training is inside for module in model.modules())
        raise KeyError
    assert all(module.training is before for module in model.modules())
