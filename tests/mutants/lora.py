"""LoRA, as people get it wrong."""

import math

from torch import nn
from torch.nn import functional as F

from methods import test_lora as particular
from mutants.mutant import Mutant, in_half_precision
from pefteach.methods.core.parts_adapter import PartsAdapter
from pefteach.methods.lora import LoRA, LoRAPart


def forward(wrong):
    return lambda patch: patch.setattr(LoRAPart, "forward", wrong)


def merged(wrong):
    return lambda patch: patch.setattr(LoRAPart, "merged_weight", wrong)


def starting(A, B):
    """Let ``A`` and ``B`` give the two matrices their start values."""

    def patch_init(patch):
        right = LoRAPart.__init__

        def init(self, layer, method):
            right(self, layer, method)
            A(self.lora_A.weight)
            B(self.lora_B.weight)

        patch.setattr(LoRAPart, "__init__", init)

    return patch_init


def keep(weight):
    return weight


def shapes_swapped(patch):
    """A is (in, r) and B (r, out), as on paper for row vectors."""
    right = LoRAPart.__init__

    def init(self, layer, method):
        right(self, layer, method)
        self.lora_A.weight = nn.Parameter(self.lora_A.weight.detach().T.contiguous())
        self.lora_B.weight = nn.Parameter(self.lora_B.weight.detach().T.contiguous())

    def forward(self, call, x):
        return call(x) + self.scale * (x @ self.lora_A.weight) @ self.lora_B.weight

    patch.setattr(LoRAPart, "__init__", init)
    patch.setattr(LoRAPart, "forward", forward)


def merges_twice(patch):
    right = PartsAdapter.merge

    def merge(self):
        right(self)
        self.merged = False
        self._set_active(True)  # the parts still act beside the merged weight

    patch.setattr(PartsAdapter, "merge", merge)


def stays_merged(patch):
    patch.setattr(PartsAdapter, "unmerge", lambda self: None)


def saves_the_base_too(patch):
    right = PartsAdapter.file_tensors
    patch.setattr(
        PartsAdapter, "file_tensors", lambda self: right(self) | {"base": next(iter(self.model.parameters()))}
    )


def optimiser_holds_the_base(patch):
    patch.setattr(nn.Module, "requires_grad_", lambda self, requires_grad=True: self)


def dropout_on_the_base(self, call, x):
    x = F.dropout(x, self.dropout, self.training)
    return call(x) + self.scale * self.lora_B(self.lora_A(x))


def without_dropout(self, call, x):
    return call(x) + self.scale * self.lora_B(self.lora_A(x))


def forgets_the_transpose(self, layer):
    return layer.weight + self.delta_weight().reshape(layer.weight.shape)


MUTANTS = [
    Mutant("scales the frozen path too", "LoRA",
           forward(lambda self, call, x: self.scale * (call(x) + self.lora_B(self.lora_A(x))))),
    Mutant("forgets the scale", "LoRA", forward(lambda self, call, x: call(x) + self.lora_B(self.lora_A(x)))),
    Mutant("scales by alpha instead of alpha/r", "LoRA",
           lambda patch: patch.setattr(LoRA, "scale", property(lambda self: self.alpha))),
    Mutant("scales by alpha/√r where alpha/r is meant", "LoRA",
           lambda patch: patch.setattr(LoRA, "scale", property(lambda self: self.alpha / math.sqrt(self.rank)))),
    Mutant("scales rsLoRA by alpha/r", "rsLoRA",
           lambda patch: patch.setattr(LoRA, "scale", property(lambda self: self.alpha / self.rank))),
    Mutant("adds the update twice", "LoRA",
           forward(lambda self, call, x: call(x) + 2 * self.scale * self.lora_B(self.lora_A(x)))),
    Mutant("subtracts the update", "LoRA",
           forward(lambda self, call, x: call(x) - self.scale * self.lora_B(self.lora_A(x)))),
    Mutant("forgets the base", "LoRA", forward(lambda self, call, x: self.scale * self.lora_B(self.lora_A(x)))),
    Mutant("lets no gradient reach A", "LoRA",
           forward(lambda self, call, x: call(x) + self.scale * self.lora_B(self.lora_A(x).detach()))),
    Mutant("starts A and B at zero", "LoRA", starting(nn.init.zeros_, nn.init.zeros_),
           checks=(particular.test_starts_as_the_base_and_trains_b_first,)),
    Mutant("starts A and B random", "LoRA", starting(keep, nn.init.normal_)),
    Mutant("swaps the shapes of A and B", "LoRA", shapes_swapped),
    Mutant("drops inputs of the frozen path too", "LoRA", forward(dropout_on_the_base),
           checks=(particular.test_dropout_only_touches_the_update,)),
    Mutant("never drops anything", "LoRA", forward(without_dropout),
           checks=(particular.test_dropout_only_touches_the_update,)),
    Mutant("merges without the scale", "LoRA",
           merged(lambda self, layer: layer.weight + self.lora_B.weight @ self.lora_A.weight)),
    Mutant("writes only the update into the weight", "LoRA", merged(lambda self, layer: self.delta_weight())),
    Mutant("reshapes instead of transposing for Conv1D", "LoRA", merged(forgets_the_transpose), "gpt2"),
    Mutant("still acts once merged", "LoRA", merges_twice),
    Mutant("stays merged when it should come apart", "LoRA", stays_merged),
    Mutant("saves weights of the base with it", "LoRA", saves_the_base_too),
    Mutant("trains the base along", "LoRA", optimiser_holds_the_base),
    Mutant("keeps A and B in the base's half precision", "LoRA", in_half_precision(LoRA)),
]  # fmt: skip
