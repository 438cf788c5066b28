"""What VeRA has of its own: two vectors per layer, and matrices that all layers share and that a file may leave out."""

import copy
import json

import peft
import pytest
import torch
from safetensors.torch import load_file

from helpers import logits, loss, model_with, refuses, trained_numbers
from interop.test_peft_files import there_and_back
from pefteach.interop import load_adapter, save_adapter
from pefteach.methods import VeRA, attach
from pefteach.workshop.parity.cases import TARGETS
from pefteach.workshop.parity.compare import shake
from pefteach.workshop.parity.families import make, make_batch

STORED = VeRA(5, TARGETS["llama"], seed=3)
BARE = VeRA(5, TARGETS["llama"], seed=3, save_projection=False)


def test_starts_as_the_base_and_trains_b_first():
    model, batch = make("ours"), make_batch("ours")
    adapter = attach(model, VeRA(5, d_initial=0.3))
    loss(model, batch).backward()
    for key, parameter in adapter.trained_tensors().items():
        if key.endswith("_b"):
            assert parameter.abs().max() == 0 and parameter.grad.abs().max() > 0, "b cannot leave zero"
        else:
            assert torch.equal(parameter, torch.full((5,), 0.3)) and parameter.grad.abs().max() == 0


def test_counts_what_the_formula_says():
    model, adapter = model_with(VeRA(7, ("q_proj", "v_proj")))
    # L · Σ (r + out): q is 64 -> 64, v is 64 -> 32
    assert trained_numbers(adapter) == 2 * (7 + 64 + 7 + 32)
    assert trained_numbers(adapter) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_all_layers_share_two_matrices_and_go_on_sharing_them():
    model, _ = model_with(VeRA(5, TARGETS["ours"]))
    for one in (model, copy.deepcopy(model), model.double()):
        frozen = [p for key, p in one.named_parameters(remove_duplicate=False) if "vera_A" in key or "vera_B" in key]
        assert len(frozen) == 2 * 2 * 3 and len({p.data_ptr() for p in frozen}) == 2
        # as large as the largest layer needs: down_proj takes 128 numbers, q_proj gives 64
        assert {tuple(p.shape) for p in frozen} == {(5, 128), (64, 5)}


def test_the_seed_alone_says_what_they_are():
    def matrices(seed):
        return model_with(VeRA(5, TARGETS["ours"], seed=seed))[1].parts["model.layers.0.self_attn.q_proj"]

    torch.manual_seed(1)
    first = matrices(3)
    torch.manual_seed(2)
    assert torch.equal(first.vera_A, matrices(3).vera_A) and torch.equal(first.vera_B, matrices(3).vera_B)
    assert not torch.equal(first.vera_A, matrices(4).vera_A)


def files_travel(method: VeRA) -> None:
    there_and_back("VeRA", method=method)


@pytest.mark.parametrize("method", [STORED, BARE], ids=["with the matrices", "without them"])
def test_files_travel_both_ways(method):
    files_travel(method)


def test_what_a_file_holds(tmp_path):
    names = {}
    for name, method in {"stored": STORED, "bare": BARE}.items():
        model, adapter = model_with(method, "llama")
        save_adapter(model, tmp_path / name)
        names[name] = load_file(tmp_path / name / "adapter_model.safetensors").keys()
        assert names["bare" if name == "bare" else "stored"] >= adapter.trained_tensors().keys()
    assert names["stored"] - names["bare"] == {"base_model.vera_A", "base_model.vera_B"}


def stored_matrices_count(tmp_path) -> None:
    """Matrices that no seed gives come out of a file as they went in, here and in peft."""
    model, adapter = model_with(STORED, "llama")
    shake({key: tensor for key, tensor in adapter.file_tensors().items() if "lambda" not in key})
    batch = make_batch("llama")
    save_adapter(model, tmp_path)
    again = make("llama")
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again, batch), logits(model, batch))
    theirs = peft.PeftModel.from_pretrained(make("llama"), tmp_path).eval()
    torch.testing.assert_close(logits(theirs, batch), logits(model, batch), atol=1e-5, rtol=1e-5)


def test_stored_matrices_count(tmp_path):
    stored_matrices_count(tmp_path)


def test_refuses_a_file_it_would_read_wrongly(tmp_path):
    model, _ = model_with(STORED, "llama")
    save_adapter(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for change, message in (
        ({"modules_to_save": ["lm_head"]}, r"this file's VeRA has modules_to_save = \['lm_head'\]"),
        ({"layers_to_transform": [0]}, "this file's VeRA has layers_to_transform"),
        ({"target_modules": ["q_proj", "v_proj"]}, "does not fit this model"),
        ({"r": 6}, "is for another model: "),
        ({"r": None}, "this file's VeRA lacks r"),
    ):
        changed = {key: value for key, value in (config | change).items() if value is not None}
        (tmp_path / "adapter_config.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            load_adapter(make("llama"), tmp_path)


@pytest.mark.parametrize(
    "method, message",
    [
        (VeRA(rank=0), "rank must be at least 1, not 0"),
        (VeRA(dropout=1.0), "dropout must be at least 0 and below 1"),
        (VeRA(target_modules=["v_prj"]), "no linear layer is called 'v_prj'"),
    ],
)
def test_refuses_wrong_settings_and_changes_nothing(model, method, message):
    refuses(model, method, message)
