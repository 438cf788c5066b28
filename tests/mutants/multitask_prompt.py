"""Multitask prompt tuning, as people get it wrong."""

import torch
from torch import nn

from methods import test_multitask_prompt as particular
from mutants.mutant import Mutant, on
from pefteach.methods import multitask_prompt
from pefteach.methods.multitask_prompt import MultitaskAdapter, MultitaskPart

TARGET = on(particular.test_a_target_starts_from_the_sources, task=None)


def combining(how, cols=lambda U, tasks: U[tasks], rows=lambda V, tasks: V[tasks], task=lambda given, default: given):
    """Make P_k from P*, U and V by ``how``."""

    def vectors(self, task_ids=None):
        tasks = self.task if task_ids is None else task(task_ids, self.task)
        factors = cols(self.prefix_task_cols, tasks) @ rows(self.prefix_task_rows, tasks)
        return how(self.embedding.weight, factors)

    return lambda patch: patch.setattr(MultitaskPart, "vectors", vectors)


def bent(shared, factors):
    return shared * factors


def starting_at_zero(patch):
    right = MultitaskPart.__init__

    def init(self, model, method, start):
        right(self, model, method, start)
        nn.init.zeros_(self.prefix_task_cols)
        nn.init.zeros_(self.prefix_task_rows)

    patch.setattr(MultitaskPart, "__init__", init)


def averages_the_products(patch):
    """The mean of the U_k V_k, cut back to rank r by an SVD, instead of the means of U and V."""

    def start_from(source, task=None):
        stored = dict(source.file_tensors())
        U, V = stored["prefix_task_cols"].detach(), stored["prefix_task_rows"].detach()
        left, size, right = torch.linalg.svd((U @ V).mean(0))
        r = U.shape[-1]
        stored |= {"prefix_task_cols": (left[:, :r] * size[:r])[None], "prefix_task_rows": right[:r][None]}
        return lambda target: target.load_tensors(stored)

    patch.setattr(multitask_prompt, "start_from", start_from)


def starts_from_the_first(patch):
    right = multitask_prompt.start_from
    patch.setattr(multitask_prompt, "start_from", lambda source, task=None: right(source, 0))


def saves_the_product(patch):
    right = MultitaskAdapter.file_tensors
    patch.setattr(
        MultitaskAdapter, "file_tensors", lambda self: right(self) | {"prompt_embeddings": self.part.vectors().detach()}
    )


MUTANTS = [
    Mutant("adds instead of multiplying", "multitask prompt", combining(lambda shared, factors: shared + factors)),
    Mutant("transposes U V", "multitask prompt",
           combining(lambda shared, factors: shared * factors.mT.reshape(factors.shape))),
    Mutant("gives every row the default task", "multitask prompt",
           combining(bent, task=lambda given, default: default)),
    Mutant("gives every row the task of the first", "multitask prompt",
           combining(bent, task=lambda given, default: given[:1])),
    Mutant("starts U and V at zero", "multitask prompt", starting_at_zero,
           checks=(particular.test_starts_near_the_shared_prompt,)),
    Mutant("averages the products of the source tasks", "multitask prompt", averages_the_products,
           checks=(TARGET,)),
    Mutant("starts a target from the first source task, whichever was meant", "multitask prompt",
           starts_from_the_first, checks=(TARGET,)),
    Mutant("shares U among the tasks", "multitask prompt", combining(bent, cols=lambda U, tasks: U[0])),
    Mutant("shares V among the tasks", "multitask prompt", combining(bent, rows=lambda V, tasks: V[0])),
    Mutant("leaves the factors out", "multitask prompt", combining(lambda shared, factors: shared + 0 * factors)),
    Mutant("saves a task's prompt in place of the shared one", "multitask prompt", saves_the_product),
    Mutant("forgets the default task in files", "multitask prompt",
           lambda patch: patch.setattr(MultitaskAdapter, "to_peft", lambda self: self.method.to_peft()),
           checks=(on(particular.test_a_file_keeps_the_default_task),)),
]  # fmt: skip
