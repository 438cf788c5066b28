"""The explorer of lesson 2, driven without a browser: move a control, look at the picture and the caption."""

import pytest

from pefteach.lessons.finetuning_and_its_cost.explorer import ANY_SIZE, CHOICES, memory_explorer
from pefteach.memory import MODELS, llama_of_size, parameter_count, plan_step
from pefteach.methods import FullFineTuning
from pefteach.model.decoder import Config


@pytest.fixture
def panel():
    return memory_explorer({"Llama-2-7B": MODELS["Llama-2-7B"], "base": Config()})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "base"),
        ("method", "norms"),
        ("precision", "fp32"),
        ("precision", "nf4"),
        ("batch", 16),
        ("length", 4096),
        ("matrix", True),
    ],
)
def test_every_control_changes_the_picture_and_the_caption(panel, name, value):
    picture, says = panel.image.value, panel.says
    panel.controls[name].value = value
    assert panel.image.value != picture and panel.says != says
    assert panel.image.alt == panel.says


def test_the_caption_is_the_plan(panel):
    expected = plan_step(MODELS["Llama-2-7B"], FullFineTuning(), "mixed", 1, 512)
    assert f"together {expected.total / 1e9:.0f} GB" in panel.says and panel.says.startswith("6.74 billion parameters")


def test_any_size_can_be_asked_for(panel):
    panel.controls["model"].value = ANY_SIZE
    for size in (13, 70):
        panel.controls["billions"].value = size
        assert panel.says.startswith(f"{parameter_count(llama_of_size(size * 1e9)) / 1e9:.3g} billion")


def test_every_method_fits_models_with_and_without_biases(panel):
    for model in panel.controls["model"].options:
        panel.controls["model"].value = model
        for method in CHOICES:
            panel.controls["method"].value = method
            assert f"{method}: weights" in panel.says


def test_a_base_in_four_bits_shows_qlora_and_says_what_it_refuses(panel):
    panel.controls["precision"].value = "nf4"
    assert "FullFineTuning trains the base itself" in panel.says and "LoRA q, v, r = 8: weights 3.88" in panel.says
    panel.controls["method"].value = "LoRA all, r = 8"
    expected = plan_step(MODELS["Llama-2-7B"], CHOICES["LoRA all, r = 8"], "nf4", 1, 512)
    assert f"together {expected.total / 1e9:.3g} GB" in panel.says and "trains the base" not in panel.says


def test_the_picture_is_stored_with_the_cell(panel):
    data, metadata = panel._repr_mimebundle_()
    assert data["text/plain"] == f"Explorer: {panel.says}" and metadata["image/png"]["alt"] == panel.says


def test_no_models_are_refused():
    with pytest.raises(ValueError, match="models is empty"):
        memory_explorer({})
