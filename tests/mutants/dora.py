"""DoRA, as people get it wrong."""

import torch
from torch import nn
from torch.nn import functional as F

from interop.test_peft_files import there_and_back
from methods import test_dora as own
from mutants.mutant import Mutant, on
from pefteach.methods.dora import DoRA, DoRAPart
from pefteach.methods.lora import LoRAPart


def files():
    there_and_back("DoRA")


def dropout():
    own.test_with_dropout_it_is_what_peft_computes(rslora=False)


def beside_lora():
    own.test_cannot_stand_beside_another_on_one_layer(own.LoRA(2, 7.0))


def rows(norm):
    """Take ``norm(part)`` for the length n of the rows: in the forward pass, in the merge and at the start."""

    class Direction(torch.Tensor):
        """W0 + s · B A, whose norm along its rows is another one."""

        def norm(self, dim):
            return norm(self.part).detach()

    right = DoRAPart.direction

    def direction(self):
        weight = right(self).as_subclass(Direction)
        weight.part = self
        return weight

    return lambda patch: patch.setattr(DoRAPart, "direction", direction)


def base(part):
    layer = part.layer[0]
    return layer.weight if isinstance(layer, nn.Linear) else layer.weight.T


def of_the_base(part):
    return base(part).norm(dim=1)


def without_the_scale(part):
    return (base(part) + part.lora_B.weight @ part.lora_A.weight).norm(dim=1)


def along_the_inputs(part):
    """The norms of columns, repeated to the number of rows: on a square layer the shapes would fit anyway."""
    columns = (base(part) + part.delta_weight()).norm(dim=0)
    return columns.repeat(len(base(part)) // len(columns) + 1)[: len(base(part))]


def norm_over_the_wrong_dimension(patch):
    """The norm over dimension 0, as it would be written: on a layer that is not square it does not even fit."""
    norm = torch.Tensor.norm
    patch.setattr(torch.Tensor, "norm", lambda self, *args, dim=None: norm(self, *args, dim=0 if dim == 1 else dim))


def gradient_through_the_norm(patch):
    patch.setattr(DoRAPart, "direction", lambda self: base(self) + self.delta_weight())


def m_starts_at_one(patch):
    right = DoRAPart.__init__

    def init(self, layer, method):
        right(self, layer, method)
        nn.init.ones_(self.lora_magnitude_vector)

    patch.setattr(DoRAPart, "__init__", init)


def m_starts_at_one_and_multiplies(patch):
    """m is a factor that starts at one, not a length; the start is still the base."""
    m_starts_at_one(patch)

    def resized(self, y, x):
        n, b = self.direction().norm(dim=1), self.layer[0].bias
        g = self.lora_magnitude_vector * of_the_base(self) / n
        return ((1 - g) * b + g * (y + self.update(x))).to(y.dtype)

    patch.setattr(DoRAPart, "resized", resized)


def resized(wrong):
    return lambda patch: patch.setattr(DoRAPart, "resized", wrong)


def with_the_bias(self, y, x):
    """m/n multiplies the bias too, as in the library adapters."""
    return self.lora_magnitude_vector / self.direction().norm(dim=1) * (y + self.update(x))


def update_alone(self, y, x):
    """The update is brought to length m, and the frozen weight is not."""
    return y + self.lora_magnitude_vector / self.delta_weight().norm(dim=1).clamp(min=1e-9).detach() * self.update(x)


def never_resized(self, y, x):
    return y + self.update(x) + 0 * self.lora_magnitude_vector


def forward(wrong):
    return lambda patch: patch.setattr(DoRAPart, "forward", wrong)


def dropout_on_the_update_alone(self, call, x):
    """(m/n) · (W0 x + s B A x'): LoRA's form, with which neither peft nor the authors compute."""
    dropped = F.dropout(x, self.dropout, self.training)
    return self.resized(call(x), dropped)


def dropout_on_everything(self, call, x):
    dropped = F.dropout(x, self.dropout, self.training)
    return self.resized(call(dropped), dropped)


def two_masks(self, call, x):
    if not (self.training and self.dropout):
        return self.resized(call(x), x)
    y = call(F.dropout(x, self.dropout))
    return call(x) + self.resized(y, F.dropout(x, self.dropout)) - y


def merged(wrong):
    return lambda patch: patch.setattr(DoRAPart, "merged_weight", wrong)


def merges_with_the_norm_at_the_start(self, layer):
    direction = self.direction()
    weight = (self.lora_magnitude_vector / of_the_base(self))[:, None] * direction
    return weight if isinstance(layer, nn.Linear) else weight.T


def merges_without_m(self, layer):
    return LoRAPart.merged_weight(self, layer)


def merges_columns(self, layer):
    """The factors are laid along the wrong side of a Conv1D weight."""
    direction = self.direction()
    g = self.lora_magnitude_vector / direction.norm(dim=1)
    if isinstance(layer, nn.Linear):
        return g[:, None] * direction
    return direction.T * g.repeat(len(direction.T) // len(g) + 1)[: len(direction.T), None]


def stores_m_as_a_module(patch):
    """m is stored under the name that it has in a live peft model, with .weight at the end."""
    right = DoRAPart.named_parameters
    renamed = lambda self, *args, **kwargs: (
        (key.replace("vector", "vector.weight"), p) for key, p in right(self, *args, **kwargs)
    )
    patch.setattr(DoRAPart, "named_parameters", renamed)


MUTANTS = [
    Mutant("takes the norm over the inputs' dimension", "DoRA", norm_over_the_wrong_dimension),
    Mutant("takes the norms of columns, at the right number", "DoRA", rows(along_the_inputs)),
    Mutant("takes the norm of W0 alone", "DoRA", rows(of_the_base)),
    Mutant("takes the norm of W0 + BA without the scale", "DoRA", rows(without_the_scale)),
    Mutant("lets the gradient through the norm", "DoRA", gradient_through_the_norm,
           checks=(own.test_the_gradient_takes_the_norm_for_a_constant,)),
    Mutant("starts m at one", "DoRA", m_starts_at_one),
    Mutant("makes m a factor that starts at one", "DoRA", m_starts_at_one_and_multiplies),
    Mutant("resizes the bias too", "DoRA", resized(with_the_bias)),
    Mutant("resizes the update alone", "DoRA", resized(update_alone)),
    Mutant("never resizes", "DoRA", resized(never_resized)),
    Mutant("drops inputs of the update alone", "DoRA", forward(dropout_on_the_update_alone), checks=(dropout,)),
    Mutant("drops inputs of the frozen path too", "DoRA", forward(dropout_on_everything), checks=(dropout,)),
    Mutant("drops other inputs for the resizing than for the update", "DoRA", forward(two_masks), checks=(dropout,)),
    Mutant("merges with the norm it started from", "DoRA", merged(merges_with_the_norm_at_the_start)),
    Mutant("merges as LoRA does", "DoRA", merged(merges_without_m)),
    Mutant("merges along the wrong side of Conv1D", "DoRA", merged(merges_columns), "gpt2"),
    Mutant("does not say in the file that it is DoRA", "DoRA", lambda patch: patch.setattr(DoRA, "use_dora", False),
           checks=(on(own.test_a_file_says_whether_it_is_dora), files)),
    Mutant("stores m under its live name in peft", "DoRA", stores_m_as_a_module, checks=(files,)),
    Mutant("forgets m in the formula", "DoRA",
           lambda patch: patch.delattr(DoRA, "trained_parameters")),
    Mutant("may stand beside LoRA on one layer", "DoRA", lambda patch: patch.setattr(DoRAPart, "composes_as", "adds"),
           checks=(beside_lora,)),
]  # fmt: skip
