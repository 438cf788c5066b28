"""Full fine-tuning, the last blocks and BitFit, as people get them wrong."""

import torch
from torch import nn
from torch.nn import functional as F

from methods import test_selective as own
from mutants.mutant import Mutant
from pefteach.measure import parameters
from pefteach.methods import selective
from pefteach.methods.core.adapter import Adapter
from pefteach.methods.core.targets import find_blocks, find_linear
from pefteach.methods.core.tensor_adapter import TensorAdapter
from pefteach.methods.selective import BitFit, LastLayers
from pefteach.model.modules import base_modules, base_parameters
from pefteach.training import gradients

FULL, LAST, BITFIT = "full fine-tuning", "last block", "BitFit"
real_adamw = torch.optim.AdamW


def loss_on_everything(patch):
    flat = lambda logits, labels: F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].clamp(min=0).flatten())
    patch.setattr(gradients, "next_token_loss", flat)
    patch.setattr(own, "next_token_loss", flat)


def labels_shifted_twice(patch):
    right = gradients.next_token_loss
    twice = lambda logits, labels: right(logits[:, :-1], labels[:, 1:])
    patch.setattr(gradients, "next_token_loss", twice)
    patch.setattr(own, "next_token_loss", twice)


def decay_on_everything(patch):
    def one_group(groups, **settings):
        everything = [p for group in groups for p in group["params"]]
        return real_adamw(everything, weight_decay=groups[0]["weight_decay"], **settings)

    patch.setattr(torch.optim, "AdamW", one_group)


def eval_while_training(patch):
    stays = lambda self, mode=True: self
    patch.setattr(nn.Module, "train", stays)


def tied_head_counted_twice(patch):
    def count(model):
        sizes = [(p.numel(), p.requires_grad) for _, p in model.named_parameters(remove_duplicate=False)]
        return parameters.Count(sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains))

    patch.setattr(own, "count_parameters", count)


def attribute_instead_of_method(patch):
    """``module.requires_grad = False`` sets an attribute that nobody reads."""

    def freeze(self, requires_grad=True):
        self.requires_grad = requires_grad
        return self

    patch.setattr(nn.Module, "requires_grad_", freeze)


def first_blocks(patch):
    def choose(self, model):
        starts = tuple(f"{path}." for path in list(find_blocks(model))[: self.count])
        norm = {n: p for n, p in base_parameters(model).items() if n == "model.norm.weight"}
        return {n: p for n, p in base_parameters(model).items() if n.startswith(starts)} | norm

    patch.setattr(LastLayers, "choose", choose)


def unfreezes_the_tied_head(patch):
    right = LastLayers.choose
    tied = lambda self, model: right(self, model) | {"lm_head.weight": model.lm_head.weight}
    patch.setattr(LastLayers, "choose", tied)


def forgets_the_final_norm(patch):
    right = LastLayers.choose
    patch.setattr(
        LastLayers, "choose", lambda self, m: {n: p for n, p in right(self, m).items() if n != "model.norm.weight"}
    )


def freezes_too_late(patch):
    """The base is only frozen when the adapter is switched off again."""
    patch.setattr(nn.Module, "requires_grad_", lambda self, requires_grad=True: self)


def norm_scales_too(patch):
    right = BitFit.choose
    norms = lambda m: {f"{path}.weight": x.weight for path, x in base_modules(m) if "Norm" in type(x).__name__}
    patch.setattr(BitFit, "choose", lambda self, model: right(self, model) | norms(model))


def new_biases_start_random(patch):
    patch.setattr(selective.torch, "zeros", lambda size: torch.empty(size).uniform_(-0.1, 0.1))


def trains_nothing_without_a_word(patch):
    def build(self, model, name):
        return selective.TensorAdapter(self, model, name, self.choose(model))

    patch.setattr(BitFit, "build", build)


def only_the_targets_biases(patch):
    only = lambda self, model: {f"{path}.bias": x.bias for path, x in find_linear(model, ["q_proj"]).items()}
    patch.setattr(BitFit, "choose", only)


def keeps_what_it_learned_in_the_base(patch):
    patch.setattr(TensorAdapter, "remove", lambda self: None)
    patch.setattr(TensorAdapter, "switch", Adapter.switch)


def stores_the_base_instead(patch):
    patch.setattr(TensorAdapter, "file_tensors", lambda self: self._stored)


def formula_forgets_the_new_biases(patch):
    patch.setattr(BitFit, "trained_parameters", selective.Selective.trained_parameters)


MUTANTS = [
    Mutant("loss on prompt and padding too", FULL, loss_on_everything, "ours", (own.test_only_the_answer_counts,)),
    Mutant("labels shifted twice", FULL, labels_shifted_twice, "ours", (own.test_only_the_answer_counts,)),
    Mutant(
        "weight decay on norms and biases", FULL, decay_on_everything, "ours",
        (own.test_decay_spares_norms_and_biases,),
    ),
    Mutant("trains in .eval()", FULL, eval_while_training, "ours", (own.test_dropout_acts_while_training,)),
    Mutant("counts a tied head twice", FULL, tied_head_counted_twice, "ours", (own.test_a_tied_head_counts_once,)),
    Mutant("leaves what it learned in the base", FULL, keeps_what_it_learned_in_the_base),
    Mutant("saves the base's values", FULL, stores_the_base_instead),
    Mutant("sets module.requires_grad, which nobody reads", LAST, attribute_instead_of_method),
    Mutant("first blocks instead of last", LAST, first_blocks,
           checks=(own.test_the_last_block_and_the_final_norm_are_chosen,)),
    Mutant("unfreezes the embedding with the tied head", LAST, unfreezes_the_tied_head, "ours",
           (own.test_the_last_block_and_the_final_norm_are_chosen,)),
    Mutant("forgets the final norm", LAST, forgets_the_final_norm,
           checks=(own.test_the_last_block_and_the_final_norm_are_chosen,)),
    Mutant("never freezes the rest", LAST, freezes_too_late),
    Mutant("trains the norms' scales as well", BITFIT, norm_scales_too, checks=(own.test_bitfit_trains_biases_alone,)),
    Mutant("gives bare layers a random bias", BITFIT, new_biases_start_random, "t5"),
    Mutant("trains nothing on a model without biases, and does not say so", BITFIT, trains_nothing_without_a_word, "t5",
           (own.test_bitfit_on_bare_layers_starts_from_zero_and_says_so_if_there_are_none,)),
    Mutant("formula forgets the biases it adds", BITFIT, formula_forgets_the_new_biases, "t5"),
]  # fmt: skip
