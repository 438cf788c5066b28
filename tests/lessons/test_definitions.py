"""What a lesson builds is what the package computes; and a mistake in the lesson would be noticed.

Each comparison takes the lesson's definitions. It runs once with the lesson as it is, and once per mistake.
"""

import copy

import nbformat
import pytest
import torch
from torch import nn

from pefteach.measure.parameters import count_parameters
from pefteach.memory import measure_step
from pefteach.methods import BitFit, FullFineTuning, LastLayers, LoRA, Norms, attach, detach
from pefteach.model import decoder as transformer
from pefteach.paths import COURSE
from pefteach.quant import Linear4bit, quantise_4bit
from pefteach.quant.load import block_linears

from .definitions import definitions

close = torch.testing.assert_close


def attention(lesson, model, batch):
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    mask = torch.arange(7) <= torch.arange(5)[:, None] + 2
    for masked in (None, mask):
        for ours, theirs in zip(lesson.attention(q, k, v, masked), transformer.attention(q, k, v, masked)):
            close(ours, theirs)


def positions(lesson, model, batch):
    place, x = torch.tensor([[0, 3, 11]]), torch.randn(2, 4, 3, 16)
    angles = model.model.rotary_emb(place)
    close(lesson.rotate(x, *lesson.rotary_angles(place[0], 16, 10000.0)), transformer.rotate(x, *angles))


def decoder(lesson, model, batch):
    """All parts at once, with the package's weights. The causal mask hides padding on the right; a hole it does not."""
    mine = lesson.Decoder(model.config).eval()
    mine.load_state_dict(model.model.state_dict())
    batch["attention_mask"][2, 2:4] = 0
    close(mine(**batch).logits, model(**batch).logits, atol=1e-4, rtol=1e-4)


def lora_layer(lesson, model, batch):
    """One layer with in ≠ out, a bias, r ≠ alpha and neither A nor B at zero."""
    layer, x = model.model.layers[1].mlp.down_proj, torch.randn(3, 5, 128)
    mine = lesson.LoRALinear(layer, rank=4, alpha=6.0)
    assert not mine.lora_B.weight.any() and mine.lora_A.weight.any()
    assert mine.lora_A.weight.abs().max() <= 128**-0.5
    nn.init.normal_(mine.lora_B.weight)
    part = attach(model, LoRA(4, 6.0, ["layers.1.mlp.down_proj"])).parts["model.layers.1.mlp.down_proj"]
    part.load_state_dict({f"{name}.weight": getattr(mine, name).weight for name in ("lora_A", "lora_B")})
    close(mine(x), model.model.layers[1].mlp.down_proj(x))
    close(mine.delta_weight(), part.delta_weight())
    expected = part.merged_weight(layer)
    lesson.merge(mine)
    close(mine.base_layer.weight, expected)


def lora_model(lesson, model, batch):
    """The same layers wrapped, the same numbers trained, the same gradients."""
    targets = ("q_proj", "k_proj", "down_proj")
    mine = lesson.add_lora(copy.deepcopy(model), targets, rank=4, alpha=6.0)
    adapter = attach(model, LoRA(4, 6.0, targets))
    wrapped = {path: part for path, part in mine.named_modules() if isinstance(part, lesson.LoRALinear)}
    assert wrapped.keys() == adapter.parts.keys()
    for path, part in adapter.parts.items():
        nn.init.normal_(part.lora_B.weight, std=0.1)
        wrapped[path].load_state_dict(part.state_dict(), strict=False)
    trained = {name.split(".lora_")[0] for name, p in mine.named_parameters() if p.requires_grad}
    assert trained == adapter.parts.keys()
    close(mine(**batch).logits, model(**batch).logits, atol=1e-4, rtol=1e-4)


def cost(lesson, model, batch):
    """Counts and saved bytes: a tied tensor once, the model's own tensors and shared memory left out."""
    batch["labels"] = batch["input_ids"]
    for method in (FullFineTuning(), LoRA(4)):
        attach(model, method)
        counted = count_parameters(model)
        assert lesson.count(model) == (counted.total, counted.trainable)
        assert lesson.saved_bytes(model, batch) == measure_step(model, batch).activations
        detach(model)


def choices(lesson, model, batch):
    """The same tensors as the package's selective methods choose."""
    chosen = {LastLayers(1): lesson.last_blocks(model, 1), Norms(): lesson.norms, BitFit(): lesson.biases}
    for method, choice in chosen.items():
        number = lesson.train_only(model, choice)
        mine = {name for name, p in model.named_parameters() if p.requires_grad}
        assert number == sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert mine == set(attach(model, method).trained_tensors())
        detach(model)


def four_bit_codes(lesson, model, batch):
    """Codes, scales and bytes of bitsandbytes' layout, and back; rows that are not whole blocks."""
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    expected = quantise_4bit(weight)
    codes, absmax = lesson.encode_nf4(weight)
    assert torch.equal(absmax, expected.absmax)
    packed = lesson.pack_pairs(codes)
    assert torch.equal(packed, expected.packed.flatten())
    assert torch.equal(lesson.unpack_pairs(packed), codes)
    assert torch.equal(lesson.dequantise_nf4(packed, absmax, weight.shape), expected.dequantise())


def four_bit_layer(lesson, model, batch):
    """Forward and backward of one layer with in ≠ out and a bias, without a gradient for what is frozen; then LoRA."""
    layer, x = model.model.layers[1].mlp.down_proj, torch.randn(3, 5, 128, requires_grad=True)
    dy = torch.randn(3, 5, 64)
    ours, package = lesson.Linear4bit(layer), Linear4bit.from_linear(layer, double_quantisation=False)
    for mine, theirs in zip(*(torch.autograd.grad(part(x), x, dy) for part in (ours, package))):
        close(mine, theirs)
    close(ours(x), package(x))
    assert not lesson.FrozenLinear.apply(x.detach(), ours.packed, ours.absmax, ours.shape).requires_grad
    adapted = lesson.QLoRALinear(layer, rank=4, alpha=6.0)
    close(adapted(x), package(x))
    nn.init.normal_(adapted.lora_B.weight)
    close(adapted(x), package(x) + 1.5 * x @ adapted.lora_A.weight.T @ adapted.lora_B.weight.T)


def four_bit_model(lesson, model, batch):
    """The layers of the blocks and no others; nothing of the base trains."""
    mine = lesson.put_in(copy.deepcopy(model), lesson.Linear4bit)
    changed = {path for path, part in mine.named_modules() if isinstance(part, lesson.Linear4bit)}
    assert changed == block_linears(model).keys() and not any(p.requires_grad for p in mine.parameters())
    for layer in block_linears(model).values():
        layer.weight.data = quantise_4bit(layer.weight.detach()).dequantise()
    close(mine(**batch).logits, model(**batch).logits, atol=1e-4, rtol=1e-4)


LESSONS = {
    "01_transformer_review": (attention, positions, decoder),
    "02_finetuning_and_its_cost": (cost, choices),
    "07_lora": (lora_layer, lora_model),
    "09_qlora": (four_bit_codes, four_bit_layer, four_bit_model),
}
MISTAKES = [
    ("01_transformer_review", attention, " / q.shape[-1] ** 0.5\n    if", "\n    if"),
    (
        "01_transformer_review",
        attention,
        "weights = scores.softmax(-1)\n    return",
        "weights = scores.softmax(-2)\n    return",
    ),
    ("01_transformer_review", positions, "[-second, first]", "[second, -first]"),
    ("01_transformer_review", decoder, "repeat_interleave(self.shared_by, 1)", "repeat(1, self.shared_by, 1, 1)"),
    ("01_transformer_review", decoder, "x + self.mlp(", "self.mlp("),
    ("01_transformer_review", decoder, "x.pow(2).mean(-1, keepdim=True)", "x.var(-1, keepdim=True)"),
    ("01_transformer_review", decoder, "mask & attention_mask[:, None, None].bool()", "mask"),
    ("02_finetuning_and_its_cost", cost, "list(model.parameters())", "list(model.state_dict().values())"),
    ("02_finetuning_and_its_cost", cost, "if storage.data_ptr() not in own:", "if True:"),
    ("02_finetuning_and_its_cost", cost, "sizes[storage.data_ptr()]", "sizes[len(sizes)]"),
    ("02_finetuning_and_its_cost", choices, "p.requires_grad_(chosen(name))", "p.requires_grad_(not chosen(name))"),
    ("02_finetuning_and_its_cost", choices, "range(blocks - k, blocks)", "range(k)"),
    ("02_finetuning_and_its_cost", choices, '"norm" in name', '"layernorm" in name'),
    ("07_lora", lora_layer, "alpha / rank", "alpha"),
    ("07_lora", lora_layer, "+= sign * part.delta_weight()", "-= sign * part.delta_weight()"),
    ("07_lora", lora_layer, "+= sign * part.delta_weight()", "+= sign * part.delta_weight() / part.scale"),
    ("07_lora", lora_layer, "nn.init.zeros_(self.lora_B.weight)", "pass"),
    ("07_lora", lora_model, "model.requires_grad_(False)", "pass"),
    ("07_lora", lora_model, "path.endswith(targets)", "path.endswith(targets[:2])"),
    ("09_qlora", four_bit_codes, "blocks.abs().amax(1)  # (blocks,)", "blocks.amax(1)"),
    ("09_qlora", four_bit_codes, "(levels[1:] + levels[:-1]) / 2", "levels[1:]"),
    ("09_qlora", four_bit_codes, "codes[::2] << 4 | codes[1::2]", "codes[1::2] << 4 | codes[::2]"),
    ("09_qlora", four_bit_codes, "[packed >> 4, packed & 15], 1", "[packed >> 4, packed & 15], 0"),
    ("09_qlora", four_bit_codes, "(levels * absmax[:, None])", "levels"),
    (
        "09_qlora",
        four_bit_layer,
        "return dy @ dequantise_nf4(*ctx.weight)",
        "return dy @ dequantise_nf4(*ctx.weight) * 2",
    ),
    ("09_qlora", four_bit_layer, "self.absmax, self.shape) + self.bias", "self.absmax, self.shape)"),
    ("09_qlora", four_bit_layer, "self.scale * self.lora_B(", "self.lora_B("),
    ("09_qlora", four_bit_layer, "nn.init.zeros_(self.lora_B.weight)", "pass"),
    ("09_qlora", four_bit_model, "model.requires_grad_(False)", "pass"),
    ("09_qlora", four_bit_model, "block_linears(model).items()", "list(block_linears(model).items())[1:]"),
]


def read(name: str):
    return nbformat.read(COURSE / f"{name}.ipynb", 4)


@pytest.mark.parametrize(
    ("name", "compare"), [(name, compare) for name, compares in LESSONS.items() for compare in compares]
)
def test_a_lesson_builds_what_the_package_computes(name, compare, model, batch):
    compare(definitions(read(name)), model, batch)


@pytest.mark.parametrize(("name", "compare", "old", "new"), MISTAKES)
def test_a_mistake_in_a_lesson_is_noticed(name, compare, old, new, model, batch):
    lesson = definitions(read(name), (old, new))
    with pytest.raises(AssertionError):
        compare(lesson, model, batch)
