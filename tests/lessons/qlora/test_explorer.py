"""The explorer of lesson 9, driven without a browser: move a control, look at the picture and the caption."""

import pytest
import torch

from pefteach.lessons.qlora import explorer as module
from pefteach.lessons.qlora.explorer import KINDS, bits_explorer, levels
from pefteach.quant import codebook
from pefteach.quant.damage import GRIDS

LOSSES = {(kind, block): 0.25 + 0.01 * i + block / 1e4 for i, kind in enumerate(KINDS) for block in (64, 32)}


@pytest.fixture
def weight():
    return torch.nn.Parameter(torch.randn(48, 80, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def panel(weight):
    return bits_explorer(weight, LOSSES, full=0.24)


@pytest.mark.parametrize(("name", "value"), [("kind", kind) for kind in KINDS if kind != "NF4"] + [("block", 32)])
def test_every_control_changes_the_picture_and_the_caption(panel, name, value):
    picture, says = panel.image.value, panel.says
    panel.controls[name].value = value
    assert panel.image.value != picture and panel.says != says
    assert panel.image.alt == panel.says


def test_the_block_sizes_come_in_order(panel):
    assert list(panel.controls["block"].options) == [32, 64]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_quantises_to_the_levels_that_are_drawn(weight, kind):
    """Catches the levels of another kind, one too few of them, and blocks that are not blocks."""
    there = GRIDS[kind](weight, 32).dequantise().detach().view(-1, 32)
    scale = weight.detach().view(-1, 32).abs().amax(1, keepdim=True)
    far = ((there / scale)[:, :, None] - levels(kind)).abs().amin(-1)
    assert far.max() < 1e-6
    used = torch.unique((there / scale * 1e4).round())
    assert len(used) > 0.9 * len(levels(kind)) or kind == "8 bit"


def test_the_counts_of_levels_are_the_known_ones():
    assert {kind: len(levels(kind)) for kind in KINDS} == {
        "2 bit": 3, "3 bit": 7, "FP4": 15, "INT4": 15, "NF4": 16, "8 bit": 255,
    }  # fmt: skip
    assert torch.equal(levels("NF4"), codebook("nf4")) and torch.equal(levels("FP4"), codebook("fp4").unique())
    for kind in KINDS:
        values = levels(kind)
        assert torch.equal(values, values.sort().values) and values[0] == -1 and values[-1] == 1 and 0 in values


def test_what_is_drawn_is_measured_on_the_weight(weight, monkeypatch):
    """Catches errors against the wrong block size, mean for root mean square, and histograms of unscaled weights."""
    seen = {}

    def draw(figure, counts, places, kind, block, errors, bits, losses, full):
        seen.update(counts=counts, places=places, kind=kind, block=block, errors=errors, bits=bits, losses=losses)
        return "drawn"

    monkeypatch.setattr(module, "draw_bits", draw)
    panel = bits_explorer(weight, LOSSES, full=0.24)
    panel.controls["kind"].value, panel.controls["block"].value = "INT4", 32
    assert (seen["kind"], seen["block"]) == ("INT4", 32) and torch.equal(seen["places"], levels("INT4"))
    w = weight.detach()
    back = GRIDS["INT4"](w, 32).dequantise()
    assert seen["errors"]["INT4"] == pytest.approx(((back - w).square().mean() / w.square().mean()).sqrt().item())
    assert seen["bits"] == {kind: pytest.approx(b + 1) for kind, b in zip(KINDS, (2, 3, 4, 4, 4, 8))}
    assert seen["losses"] == {kind: LOSSES[kind, 32] for kind in KINDS}
    assert seen["counts"].sum() == w.numel() and seen["counts"][[0, -1]].sum() >= w.numel() / 32


def test_what_it_needs():
    weight = torch.ones(4, 16)
    with pytest.raises(ValueError, match="losses is empty"):
        bits_explorer(weight, {}, full=1.0)
    with pytest.raises(ValueError, match="every kind must have a loss for the same block sizes"):
        bits_explorer(weight, {("NF4", 32): 1.0, ("NF4", 64): 1.0, ("FP4", 32): 1.0}, full=1.0)
    with pytest.raises(ValueError, match="be one of 2 bit"):
        bits_explorer(weight, {("NF4", 32): 1.0, ("NF5", 32): 1.0}, full=1.0)
