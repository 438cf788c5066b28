"""VeRA, as people get it wrong."""

import torch
from torch import nn

from methods import test_vera as own
from mutants.mutant import Mutant, on
from pefteach.methods import vera
from pefteach.methods.core.parts_adapter import PartsAdapter
from pefteach.methods.vera import VeRA, VeRAAdapter, VeRAPart


def update(wrong):
    """Another update; ``wrong`` is given x, A (r, in), B (out, r), d and b."""

    def patch_update(patch):
        def changed(self, x):
            A, B = self.vera_A[:, : self.fan_in], self.vera_B[: self.fan_out]
            return wrong(x, A, B, self.vera_lambda_d, self.vera_lambda_b)

        patch.setattr(VeRAPart, "update", changed)

    return patch_update


def starting(change):
    """Let ``change(part, method)`` have its way with a fresh part."""

    def patch_init(patch):
        right = VeRAPart.__init__

        def init(self, layer, method, A, B):
            right(self, layer, method, A, B)
            change(self, method)

        patch.setattr(VeRAPart, "__init__", init)

    return patch_init


def last_rows_and_columns(patch):
    def changed(self, x):
        A, B = self.vera_A[:, -self.fan_in :], self.vera_B[-self.fan_out :]
        return self.vera_lambda_b * (self.vera_lambda_d * (x @ A.T) @ B.T)

    patch.setattr(VeRAPart, "update", changed)


def own_matrices(part, method):
    """Every layer draws its own A and B."""
    part.vera_A = nn.Parameter(torch.randn_like(part.vera_A), requires_grad=False)
    part.vera_B = nn.Parameter(torch.randn_like(part.vera_B), requires_grad=False)


def copies(part, method):
    """Every layer keeps a copy of A and B: the numbers are right, the memory is not."""
    part.vera_A = nn.Parameter(part.vera_A.clone(), requires_grad=False)
    part.vera_B = nn.Parameter(part.vera_B.clone(), requires_grad=False)


def loras_start(patch):
    right = nn.init.kaiming_uniform_
    patch.setattr(vera.nn.init, "kaiming_uniform_", lambda w, **more: right(w, a=5**0.5, **more))


def unseeded(patch):
    right = nn.init.kaiming_uniform_
    patch.setattr(vera.nn.init, "kaiming_uniform_", lambda w, generator: right(w))


def one_generator_each(patch):
    right = nn.init.kaiming_uniform_
    patch.setattr(
        vera.nn.init, "kaiming_uniform_", lambda w, generator: right(w, generator=torch.Generator().manual_seed(0))
    )


def merged_without_b(self):
    return self.vera_B[: self.fan_out] @ (self.vera_lambda_d[:, None] * self.vera_A[:, : self.fan_in])


FILES = (on(own.files_travel, method=own.STORED), on(own.stored_matrices_count))

MUTANTS = [
    Mutant("forgets d", "VeRA", update(lambda x, A, B, d, b: b * (x @ A.T @ B.T))),
    Mutant("forgets b", "VeRA", update(lambda x, A, B, d, b: (d * (x @ A.T)) @ B.T)),
    Mutant("adds b where it multiplies", "VeRA", update(lambda x, A, B, d, b: b + (d * (x @ A.T)) @ B.T)),
    Mutant("sums over d instead of scaling by it", "VeRA",
           update(lambda x, A, B, d, b: b * ((x @ A.T @ d)[..., None].expand(*x.shape[:-1], len(d)) @ B.T))),
    Mutant("scales by 1/r, as LoRA does", "VeRA", update(lambda x, A, B, d, b: b * ((d * (x @ A.T)) @ B.T) / len(d))),
    Mutant("takes the last rows and columns of the shared matrices", "VeRA", last_rows_and_columns),
    Mutant("draws A and B anew for every layer", "VeRA", starting(own_matrices)),
    Mutant("keeps a copy of A and B in every layer", "VeRA", starting(copies), "ours",
           checks=(own.test_all_layers_share_two_matrices_and_go_on_sharing_them,)),
    Mutant("trains A and B", "VeRA", lambda patch: patch.setattr(VeRAPart, "frozen", ())),
    Mutant("lets b start at one", "VeRA", starting(lambda part, method: nn.init.ones_(part.vera_lambda_b))),
    Mutant("lets d start at one, whatever it is told", "VeRA",
           starting(lambda part, method: nn.init.ones_(part.vera_lambda_d)), "ours",
           checks=(own.test_starts_as_the_base_and_trains_b_first,)),
    Mutant("draws A and B as LoRA draws its A", "VeRA", loras_start),
    Mutant("draws A and B without the seed", "VeRA", unseeded),
    Mutant("draws A and B from the same numbers", "VeRA", one_generator_each),
    Mutant("merges without b", "VeRA", lambda patch: patch.setattr(VeRAPart, "delta_weight", merged_without_b)),
    Mutant("never stores the matrices", "VeRA",
           lambda patch: patch.setattr(VeRAAdapter, "file_tensors", PartsAdapter.trained_tensors), checks=FILES),
    Mutant("tells peft another seed", "VeRA",
           lambda patch: patch.setattr(VeRA, "peft_names", {**VeRA.peft_names, "seed": "seed"}),
           checks=(on(own.files_travel, method=own.BARE),)),
]  # fmt: skip
