"""Every method keeps every promise on every family of models that it is for."""

import copy

import pytest
import torch

from contract.checks import CHECKS
from helpers import logits, train_by_hand
from pefteach.methods import activate, attach
from pefteach.workshop.parity.cases import CASES
from pefteach.workshop.parity.families import make, make_batch

EVERYWHERE = [(name, family) for name, case in CASES.items() for family in case.methods]


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("name, family", EVERYWHERE)
def test_promise(name, family, check):
    check(CASES[name], family)


@pytest.mark.parametrize("family", ["ours", "llama", "gpt2", "bert"])
def test_all_methods_on_one_base_switch_to_what_each_is_alone(family):
    base, batch, alone = make(family), make_batch(family), {}
    together = copy.deepcopy(base)
    methods = {name: case.methods[family] for name, case in CASES.items() if family in case.methods}
    for name, method in methods.items():
        only = copy.deepcopy(base)
        for model in (only, together):
            torch.manual_seed(5)
            train_by_hand(model, attach(model, method, name), batch, steps=2)
        alone[name] = logits(only, batch)
    for name in [*methods, *reversed(methods)]:
        activate(together, name)
        assert torch.equal(logits(together, batch), alone[name]), name
