"""Measured bytes against counts made by hand."""

import pytest
import torch
from torch import nn

from helpers import same, snapshot
from pefteach.memory.count import activation_bytes, measure_step, weight_bytes
from pefteach.memory.trackers import LiveBytes, SavedActivations
from pefteach.methods import FullFineTuning, LastLayers, LoRA, attach
from pefteach.quant import quantise
from pefteach.quant.load import block_linears


@pytest.fixture
def labelled(batch):
    return {**batch, "labels": batch["input_ids"]}


def test_saved_tensors_of_two_layers_by_hand():
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(7, 3)
    with SavedActivations(net) as saved:
        loss = net(x).sum()
    # The input, and ReLU's result: it and the last layer both save it, in one storage. The weight of the last layer
    # is saved as well, but it is in memory anyway.
    assert saved.bytes == (7 * 3 + 7 * 5) * 4
    loss.backward()


def test_a_frozen_layer_saves_no_input():
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    net[1].requires_grad_(False)
    with SavedActivations(net) as saved:
        loss = net(torch.randn(7, 3)).sum()
    assert saved.bytes == 7 * 3 * 4
    assert loss.requires_grad


def test_a_view_counts_as_its_whole_storage_once():
    scale = nn.Linear(4, 1, bias=False)
    x = torch.randn(6, 4)
    with SavedActivations(scale) as saved:
        loss = scale(x[:3]).sum() + scale(x[3:]).sum()
    assert saved.bytes == 6 * 4 * 4
    assert loss.requires_grad


def test_live_bytes_by_hand():
    held = torch.zeros(100)
    with LiveBytes([held, held[5:]]) as live:
        a = held + 1  # 400 held, 400 new
        b = a.view(10, 10)
        del a  # b still needs its memory
        assert live.now == 800
        c = torch.cat([b, b]).sum()  # 800 for a moment, and 4
        del b
        held.mul_(2)
        assert live.now == 404 and live.peak == 1604
    assert c == 200


def test_the_peak_comes_when_a_gradient_meets_what_is_still_kept():
    net = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    x = torch.randn(1000, 64)
    with LiveBytes([*net.parameters(), x]) as live:
        loss = net(x).square().sum()
        forward = live.now
        loss.backward()
    big, weight = 4 * 1000 * 64, 4 * 64 * 64
    assert forward == 2 * weight + 3 * big + 4  # x, what the second layer takes, what the square takes; the loss
    # On the way back through the square: x to the power of 1, twice that, times the loss's gradient. Then they go.
    assert live.peak == forward + 3 * big + 4


def test_measuring_says_the_peak(model, labelled):
    attach(model, FullFineTuning())
    step = measure_step(model, labelled)
    held = step.weights + step.optimizer
    assert held + step.activations < step.peak and held + step.gradients < step.peak
    plain = measure_step(model, labelled, torch.optim.SGD)
    assert plain.optimizer == 0 and plain.peak <= step.peak - step.optimizer


def test_the_activations_alone_are_those_of_a_whole_step(model, labelled):
    attach(model, LoRA(rank=4))
    alone = activation_bytes(model, labelled)
    assert alone == measure_step(model, labelled).activations
    assert all(p.grad is None for p in model.parameters())


def test_four_bits_weigh_what_they_are(model):
    before, layers = weight_bytes(model), block_linears(model).values()
    sixteen = sum(layer.weight.nbytes for layer in layers)
    quantise(model)
    assert weight_bytes(model) == before - sixteen + sum(
        layer.quantised.nbytes for layer in block_linears(model).values()
    )


def test_nothing_is_saved_without_gradients(model, batch):
    with torch.no_grad(), SavedActivations(model) as saved:
        model(**batch)
    assert saved.bytes == 0


def test_full_fine_tuning_in_float32_costs_16_bytes_per_parameter(model, labelled):
    count = sum(p.numel() for p in model.parameters())
    tensors = len(list(model.parameters()))
    attach(model, FullFineTuning())
    step = measure_step(model, labelled)
    assert step.weights == step.gradients == 4 * count
    assert step.optimizer == 8 * count + 4 * tensors  # two moments, and a step counter for each tensor
    assert step.total == 16 * count + 4 * tensors + step.activations


def test_lora_saves_gradients_and_moments_but_not_weights(model, labelled):
    base = weight_bytes(model)
    attach(model, LoRA(rank=4))
    step, count = measure_step(model, labelled), 2 * 4 * (64 + 64 + 64 + 32)
    assert step.weights == base + 4 * count and step.gradients == 4 * count
    assert step.optimizer == 8 * count + 4 * 8  # four layers, A and B


def test_activations_below_the_first_trained_block_are_not_kept(model, labelled):
    attach(model, LastLayers(2), "two")
    two = measure_step(model, labelled).activations
    attach(model, LastLayers(1), "one")
    one = measure_step(model, labelled).activations
    D, inner, heads, tokens = 64, 128, 4, 3 * 9
    norms = 2 * (D + 1 + D)  # input, root mean square, normed input
    attention = D + (4 * D + heads + 9)  # its input; q, k, v, result, one number per head, one row of the mask
    feed_forward = D + 3 * inner + inner  # its input; gate, silu(gate), up; their product
    assert two - one == 4 * tokens * (norms + attention + feed_forward)


def test_the_attention_matrix_grows_with_the_square_of_the_length(model):
    attach(model, FullFineTuning())

    def extra(length: int) -> int:
        ids = torch.randint(3, 96, (2, length))
        batch = {"input_ids": ids, "labels": ids}
        return measure_step(model, batch, output_attentions=True).activations - measure_step(model, batch).activations

    linear, quadratic = 2 * extra(16), 4 * extra(16)
    assert linear < quadratic <= extra(32) * 1.1
    assert extra(32) <= quadratic * 1.5


def test_measuring_changes_nothing(model, labelled):
    attach(model, FullFineTuning())
    before = snapshot(model)
    measure_step(model, labelled)
    assert same(model, before)
    assert all(p.grad is None for p in model.parameters())


def test_a_frozen_model_is_refused(model, labelled):
    with pytest.raises(ValueError, match="attach a method"):
        measure_step(model.requires_grad_(False), labelled)
