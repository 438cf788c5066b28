"""How a call passes through the parts of a module."""

import sys
from pathlib import Path

import pytest
import torch

from pefteach.methods import IA3, AdaLoRA, LoRA, VeRA, attach
from pefteach.methods.core.wrapping import AdaptedModule
from pefteach.model.modules import base_modules
from pefteach.workshop.parity.families import make, make_batch

PACKAGE = str(Path(sys.modules["pefteach"].__file__).parent)
MOST = 4


def calls_of_ours(module, x) -> list[str]:
    """The functions of this package that one call of a module enters, in order."""
    entered = []

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            entered.append(frame.f_code.co_name)

    sys.setprofile(watch)
    try:
        module(x)
    finally:
        sys.setprofile(None)
    return entered


def few_frames(method) -> None:
    model = make("llama")
    adapter = attach(model, method)
    path = next(path for path in adapter.parts if path.endswith("v_proj"))
    with torch.no_grad():
        entered = calls_of_ours(model.get_submodule(path), torch.ones(2, 3, 64))
    assert entered[0] == "forward" and 2 <= len(entered) <= MOST, entered


@pytest.mark.parametrize("method", [LoRA(3), AdaLoRA(3, 2), VeRA(5), IA3()], ids=lambda method: type(method).__name__)
def test_a_call_passes_few_frames_of_ours(method):
    few_frames(method)


def test_sees_a_way_round(monkeypatch):
    right = AdaptedModule.forward
    monkeypatch.setattr(AdaptedModule, "forward", lambda self, x: self.base_layer is not None and right(self, x))
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", (PACKAGE, str(Path(__file__).parent)))
    with pytest.raises(AssertionError, match="__getattr__"):
        few_frames(LoRA(3))


def test_no_attribute_is_looked_up_by_the_fallback(monkeypatch):
    model, batch = make("llama"), make_batch("llama")
    attach(model, LoRA(3))
    asked = []
    right = AdaptedModule.__getattr__
    monkeypatch.setattr(AdaptedModule, "__getattr__", lambda self, name: asked.append(name) or right(self, name))
    model(**batch)
    assert not asked
    assert model.model.layers[0].self_attn.q_proj.in_features == 64 and asked[0] == "in_features"


def test_a_layer_exchanged_under_an_adapter_is_the_one_that_is_called():
    model, batch = make("ours"), make_batch("ours")
    attach(model, LoRA(3))
    before = model(**batch).logits
    for path, layer in list(base_modules(model)):
        if path.endswith("q_proj"):
            other = torch.nn.Linear(layer.in_features, layer.out_features)
            model.get_submodule(path).base_layer = other
    assert not torch.allclose(model(**batch).logits, before)


def test_an_empty_module_is_a_base_layer_too():
    adapted = AdaptedModule(torch.nn.Sequential())  # false, as a list without elements is
    assert torch.equal(adapted(torch.ones(2)), torch.ones(2))
