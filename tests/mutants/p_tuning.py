"""P-tuning, as people get it wrong."""

import torch
from torch import nn

from methods import test_p_tuning as particular
from mutants.mutant import Mutant, on
from pefteach.methods.core.soft_prompt import PromptAdapter, PromptPart
from pefteach.methods.p_tuning import PTuningAdapter, PTuningPart

FILES = on(particular.test_a_file_holds_the_result_and_loads_as_plain_vectors, method=particular.BOTH["mlp"])


def with_heads(change):
    """Build another network."""

    def patch_init(patch):
        right = PTuningPart.__init__

        def init(self, model, method, D):
            right(self, model, method, D)
            change(self, method.encoder_hidden_size or D, D)

        patch.setattr(PTuningPart, "__init__", init)

    return patch_init


def vectors(wrong):
    return lambda patch: patch.setattr(PTuningPart, "vectors", wrong)


def one_way(part, h, D):
    part.lstm_head = nn.LSTM(D, 2 * h, 2)


def only_forwards(patch):
    """The network reads the forward half h alone, not [forwards ; backwards] (2h)."""

    def halve(part, h, D):
        part.mlp_head[0] = nn.Linear(h, 2 * h)

    with_heads(halve)(patch)
    vectors(lambda self: self.mlp_head(self.lstm_head(self.embedding.weight)[0].chunk(2, -1)[0]))(patch)


def no_nonlinearity(part, h, D):
    part.mlp_head = nn.Sequential(*[nn.Identity() if isinstance(m, nn.ReLU) else m for m in part.mlp_head])


def time_for_batch(self):
    """An LSTM that expects (time, batch, D) gets (1, n, D): n sentences of one vector each."""
    x = self.embedding.weight
    if "lstm_head" in self._modules:
        x = self.lstm_head(x[None])[0][0]
    return self.mlp_head(x) if "mlp_head" in self._modules else x


def stored(wrong):
    return lambda patch: patch.setattr(PTuningAdapter, "file_tensors", wrong)


def saves_what_goes_in(patch):
    """The file holds H, and the loader runs its own network over it."""
    stored(PromptAdapter.file_tensors)(patch)
    fills_what_goes_in(patch)


def fills_what_goes_in(patch):
    def load_tensors(self, tensors):
        with torch.no_grad():
            self.part.embedding.weight.copy_(tensors["prompt_embeddings"])

    patch.setattr(PTuningAdapter, "load_tensors", load_tensors)


def keeps_the_input(patch):
    right = PTuningAdapter._keep
    patch.setattr(PTuningAdapter, "_keep", lambda self, vectors: right(self, self.part.embedding.weight.clone()))


def keeps_the_network(patch):
    """The result is put in, but the network stays and runs over it again."""
    patch.setattr(PTuningAdapter, "_keep", lambda self, vectors: self.part.embedding.weight.copy_(vectors))


MUTANTS = [
    Mutant("reads in one direction only", "P-tuning, LSTM", with_heads(one_way),
           checks=(particular.test_the_lstm_reads_both_ways,)),
    Mutant("takes time for batch", "P-tuning, LSTM", vectors(time_for_batch),
           checks=(particular.test_the_lstm_reads_both_ways,)),
    Mutant("hands the MLP one direction of the LSTM", "P-tuning, LSTM", only_forwards),
    Mutant("saves what goes into the network, not what comes out", "P-tuning", saves_what_goes_in,
           checks=(FILES,)),
    Mutant("saves what goes into the network, not what comes out", "P-tuning, LSTM", saves_what_goes_in),
    Mutant("leaves dropout on when saving", "P-tuning, LSTM",
           stored(torch.no_grad()(lambda self: {"prompt_embeddings": self.part.vectors()})),
           checks=(particular.test_dropout_does_not_get_into_a_file,)),
    Mutant("loads the result as what goes into the network", "P-tuning", fills_what_goes_in),
    Mutant("collapses to what goes into the network", "P-tuning", keeps_the_input,
           checks=(on(particular.test_collapses_to_plain_vectors, method=particular.BOTH["mlp"]),)),
    Mutant("runs the network again over its result", "P-tuning", keeps_the_network),
    Mutant("leaves the network out", "P-tuning", vectors(PromptPart.vectors)),
    Mutant("lets no gradient reach what goes into the network", "P-tuning",
           vectors(lambda self: self.mlp_head(self.embedding.weight.detach()))),
    Mutant("leaves the ReLUs out", "P-tuning", with_heads(no_nonlinearity)),
]  # fmt: skip
