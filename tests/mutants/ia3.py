"""(IA)³, as people get it wrong."""

import torch
from torch import nn

from interop.test_peft_files import there_and_back
from methods import test_ia3 as own
from mutants.mutant import Mutant, in_half_precision
from pefteach.methods import ia3
from pefteach.methods.core.parts_adapter import PartsAdapter
from pefteach.methods.core.wrapping import Part
from pefteach.methods.ia3 import IA3, IA3Part
from pefteach.model.modules import linear_shape


def files():
    there_and_back("IA3")


def forward(wrong):
    return lambda patch: patch.setattr(IA3Part, "forward", wrong)


def starting_at(value):
    def patch_init(patch):
        right = IA3Part.__init__

        def init(self, layer, feedforward):
            right(self, layer, feedforward)
            nn.init.constant_(self.ia3_l, value)

        patch.setattr(IA3Part, "__init__", init)

    return patch_init


def matrix_product(self, call, x):
    """l (out, 1) is taken for a matrix: a sum over the outputs instead of one factor for each."""
    if self.feedforward:
        return call((x @ self.ia3_l.T).expand_as(x))
    y = call(x)
    return (y @ self.ia3_l).expand_as(y)


def queries_too(patch):
    right = ia3.find_linear

    def find(model, target_modules):
        names = [*target_modules, "q_proj"] if "k_proj" in target_modules else target_modules
        return right(model, names)

    patch.setattr(ia3, "find_linear", find)


def queries_instead_of_keys(patch):
    right = ia3.find_linear
    patch.setattr(
        ia3, "find_linear", lambda model, names: right(model, [name.replace("k_proj", "q_proj") for name in names])
    )


def output_of_down_proj(patch):
    """The feed-forward vector has d numbers, as in the library adapters on a Llama."""
    right = IA3Part.__init__
    patch.setattr(IA3Part, "__init__", lambda self, layer, feedforward: right(self, layer, False))


def output_of_down_proj_at_its_size(patch):
    """The shapes are kept, so that only the numbers can tell."""

    def forward(self, call, x):
        y = call(x)
        return y * self.ia3_l.flatten()[: y.shape[-1]]

    patch.setattr(IA3Part, "forward", forward)


def before_the_activation(patch):
    """silu(l ⊙ gate(x)) ⊙ up(x): the vector of down_proj acts where the gate comes out."""

    class Adapter(PartsAdapter):
        def trained_tensors(self):
            return {key.replace("gate_proj", "down_proj"): p for key, p in super().trained_tensors().items()}

    class OnOutput(IA3Part):
        def forward(self, call, x):
            return call(x) * self.ia3_l.flatten()

    def build(self, model, name):
        layers, parts = ia3.find_linear(model, self.target_modules), {}
        for path, feedforward in self.feedforward(model).items():
            kind = OnOutput if feedforward else IA3Part
            parts[path.replace("down_proj", "gate_proj")] = kind(layers[path], feedforward)
        return Adapter(self, model, name, parts)

    patch.setattr(IA3, "build", build)


def shapes_swapped(patch):
    """(1, out) and (in, 1): the numbers are the same, but peft's files have them the other way round."""
    right = IA3Part.__init__

    def init(self, layer, feedforward):
        right(self, layer, feedforward)
        self.ia3_l = nn.Parameter(self.ia3_l.detach().T.contiguous())

    merge = IA3Part.merged_weight

    def merged_weight(self, layer):
        whole, self.ia3_l.data = self.ia3_l.data, self.ia3_l.data.T
        weight = merge(self, layer)
        self.ia3_l.data = whole
        return weight

    patch.setattr(IA3Part, "__init__", init)
    patch.setattr(IA3Part, "merged_weight", merged_weight)


def sides_swapped(patch):
    """The vector of an output gets as many numbers as the layer has inputs, and the other way round."""

    def init(self, layer, feedforward):
        Part.__init__(self)
        fan_in, fan_out = linear_shape(layer)
        self.feedforward = feedforward
        self.ia3_l = nn.Parameter(torch.ones((1, fan_out) if feedforward else (fan_in, 1)))

    patch.setattr(IA3Part, "__init__", init)


def bias_left_out(self, call, x):
    layer, vector = call, self.ia3_l.flatten()
    if self.feedforward:
        return call(x * vector)
    return (call(x) - layer.bias) * vector + layer.bias


def adds(self, call, x):
    return call(x + self.ia3_l.flatten()) if self.feedforward else call(x) + self.ia3_l.flatten()


MUTANTS = [
    Mutant("takes l for a matrix", "IA3", forward(matrix_product)),
    Mutant("starts at zero, which silences the layer", "IA3", starting_at(0.0)),
    Mutant("scales the queries too", "IA3", queries_too),
    Mutant("scales the queries instead of the keys", "IA3", queries_instead_of_keys),
    Mutant("scales what comes out of down_proj: d numbers, not d_ff", "IA3", output_of_down_proj),
    Mutant("scales what comes out of down_proj, with as many numbers as go in", "IA3", output_of_down_proj_at_its_size),
    Mutant("scales before the activation", "IA3", before_the_activation),
    Mutant("leaves the bias as it is", "IA3", forward(bias_left_out)),
    Mutant("adds instead of scaling", "IA3", forward(adds)),
    Mutant("merges into the weight and not into the bias", "IA3",
           lambda patch: patch.setattr(IA3Part, "merged_bias", Part.merged_bias)),
    Mutant("merges the feed-forward vector into the bias too", "IA3",
           lambda patch: patch.setattr(IA3Part, "merged_bias", lambda self, layer: layer.bias * self.ia3_l.mean())),
    Mutant("forgets in merging that Conv1D is transposed", "IA3",
           lambda patch: patch.setattr(IA3Part, "merged_weight", lambda self, layer: layer.weight * self.ia3_l),
           "gpt2"),
    Mutant("lets weight decay pull l to zero", "IA3", lambda patch: patch.setattr(IA3, "allows_weight_decay", True),
           checks=(own.test_weight_decay_does_not_pull_it_to_zero,)),
    Mutant("stores (1, out) and (in, 1)", "IA3", shapes_swapped, checks=(files,)),
    Mutant("has in numbers for an output and out numbers for an input", "IA3", sides_swapped),
    Mutant("keeps l in the base's half precision", "IA3", in_half_precision(IA3)),
    Mutant("cannot stand beside another (IA)³", "IA3", lambda patch: patch.setattr(IA3Part, "composes_as", None),
           checks=(own.test_two_multiply_but_one_cannot_stand_beside_lora,)),
    Mutant("may stand beside LoRA, in an order that nobody chose", "IA3",
           lambda patch: patch.setattr(IA3Part, "composes_as", "adds"),
           checks=(own.test_two_multiply_but_one_cannot_stand_beside_lora,)),
]  # fmt: skip
