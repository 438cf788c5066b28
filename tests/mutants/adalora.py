"""AdaLoRA, as people get it wrong."""

import torch
from torch import nn

from interop.test_peft_files import there_and_back
from methods import test_adalora as own
from mutants.mutant import Mutant
from pefteach.methods.adalora import AdaLoRA, AdaLoRAPart, training
from pefteach.methods.adalora.importance import Importance
from pefteach.methods.adalora.training import AdaLoRAAdapter
from pefteach.methods.core.low_rank import LowRankPart
from pefteach.methods.core.parts_adapter import PartsAdapter
from pefteach.methods.core.targets import find_linear
from pefteach.model.modules import linear_shape

right_step = AdaLoRAAdapter.after_step
ALLOCATOR = (own.test_the_allocator_is_pefts_at_every_step,)


def pruned_files():
    there_and_back("AdaLoRA", steps=10)


def step(wrong):
    """Replace ``after_step`` by ``wrong(adapter, step, steps)``, without gradients."""
    return lambda patch: patch.setattr(AdaLoRAAdapter, "after_step", torch.no_grad()(wrong))


def scaled(scale):
    """Replace the scale s by ``scale(part, method)``."""

    def patch_init(patch):
        right = AdaLoRAPart.__init__

        def init(self, layer, method, rank):
            right(self, layer, method, rank)
            self.scale = scale(self, method)

        patch.setattr(AdaLoRAPart, "__init__", init)

    return patch_init


def scale_follows_the_rank(patch):
    right = LowRankPart.forward

    def forward(self, call, x):
        initial = self.scale * len(self.kept)
        self.scale = initial / max(1, int(self.kept.sum()))
        try:
            return right(self, call, x)
        finally:
            self.scale = initial / len(self.kept)

    patch.setattr(AdaLoRAPart, "forward", forward)


def scored(scores, remember=None):
    """Replace the importance by ``scores(importance)``; ``remember`` is called at every step before it."""

    def patch_scores(patch):
        if remember:
            right = Importance.follow

            def follow(self, Q, P, E, beta1, beta2):
                right(self, Q, P, E, beta1, beta2)
                remember(self, Q, P, E)

            patch.setattr(Importance, "follow", follow)
        patch.setattr(Importance, "scores", scores)

    return patch_scores


def keep_lambda(self, Q, P, E):
    self.size = E.detach().abs()[:, 0].clone()


def without_smoothing(patch):
    right = Importance.follow

    def follow(self, Q, P, E, beta1, beta2):
        right(self, Q, P, E, 1e-9, beta2)

    patch.setattr(Importance, "follow", follow)


def average(self):
    one = lambda name: getattr(self, f"sensitivity_{name}") * getattr(self, f"uncertainty_{name}")
    return one("E")[:, 0] + one("P").sum(0) + one("Q").sum(1)


def without_uncertainty(self):
    return self.sensitivity_E[:, 0] + self.sensitivity_P.mean(0) + self.sensitivity_Q.mean(1)


def lambda_only(self):
    return (self.sensitivity_E * self.uncertainty_E)[:, 0]


def after_zero_grad(self, step, steps):
    for p in self.trained_tensors().values():
        p.grad.zero_()
    right_step(self, step, steps)


def masks_rows_of_a(self, step, steps):
    """The rows of Q and columns of P are zeroed, and can never come back; Λ is left as it is."""
    before = {part: part.lora_E.clone() for part in self.parts.values()}
    right_step(self, step, steps)
    for part in self.parts.values():
        part.lora_E.copy_(before[part])
        part.lora_A[~part.kept] = 0
        part.lora_B[:, ~part.kept] = 0


def masks_before_the_step(patch):
    """The choice is written into Λ before the next optimiser step, whose momentum fills it again."""
    right = AdaLoRAAdapter.penalty

    @torch.no_grad()
    def after_step(self, step, steps):
        before = {part: part.lora_E.clone() for part in self.parts.values()}
        right_step(self, step, steps)
        for part in self.parts.values():
            part.lora_E.copy_(before[part])

    def penalty(self):
        with torch.no_grad():
            for part in self.parts.values():
                part.lora_E.masked_fill_(~part.kept[:, None], 0.0)
        return right(self)

    patch.setattr(AdaLoRAAdapter, "after_step", after_step)
    patch.setattr(AdaLoRAAdapter, "penalty", penalty)


def squared(self):
    gaps = []
    for part in self.parts.values():
        one = torch.eye(len(part.lora_E))
        gaps += [(part.lora_A @ part.lora_A.T - one).square().sum(), (part.lora_B.T @ part.lora_B - one).square().sum()]
    return self.method.orthogonality * torch.stack(gaps).mean()


def summed(patch):
    right = AdaLoRAAdapter.penalty
    patch.setattr(AdaLoRAAdapter, "penalty", lambda self: right(self) * 2 * len(self.parts))


def linear(step, start, end, first, last):
    left = min(1.0, max(0.0, 1 - (step - start) / (end - start)))
    return int((first - last) * left + last)


def shrinks_during_warmup(step, start, end, first, last):
    left = min(1.0, max(0.0, 1 - step / end))
    return int((first - last) * left**3 + last)


def budget(wrong):
    def patch_budget(patch):
        patch.setattr(training, "budget", wrong)
        patch.setattr(own, "budget", wrong)

    return patch_budget


def per_layer(patch):
    """Every layer keeps its own best, so all end at the same rank: the budget never moves."""

    def most_important(scores, count):
        each = count // len(scores)
        return [score >= score.topk(each).values[-1] for score in scores]

    patch.setattr(training, "most_important", most_important)


def keeps_the_least_important(patch):
    right = training.most_important
    patch.setattr(training, "most_important", lambda scores, count: right([-score for score in scores], count))


def goes_on_choosing(self, step, steps):
    """In the final phase importance is still followed, and the choice made anew."""
    _, end = self.method.phases(steps)
    right_step(self, min(step, end - 1), steps)
    if step >= end:
        scores = [part.importance.scores() for part in self.parts.values()]
        masks = training.most_important(scores, self.method.target_rank * len(scores))
        for part, mask in zip(self.parts.values(), masks):
            part.kept.copy_(mask)
            part.lora_E.masked_fill_(~mask[:, None], 0.0)


def dropped_for_good(self, step, steps):
    """What was dropped once never comes back, although importance may say otherwise later."""
    gone = {part: getattr(part, "gone", torch.zeros_like(part.kept)) for part in self.parts.values()}
    right_step(self, step, steps)
    for part in self.parts.values():
        part.gone = gone[part] | ~part.kept
        part.kept &= ~part.gone
        part.lora_E.masked_fill_(part.gone[:, None], 0.0)


def never_settles(self, step, steps):
    """The last choice is made once, and the optimiser then grows everything back."""
    _, end = self.method.phases(steps)
    if step <= end:
        right_step(self, step, steps)


def qr_every_step(self, step, steps):
    right_step(self, step, steps)
    for part in self.parts.values():
        part.lora_A.copy_(torch.linalg.qr(part.lora_A.T).Q.T)
        part.lora_B.copy_(torch.linalg.qr(part.lora_B).Q)


def lambda_starts_at_one(patch):
    right = AdaLoRAPart.__init__

    def init(self, layer, method, rank):
        right(self, layer, method, rank)
        nn.init.ones_(self.lora_E)

    patch.setattr(AdaLoRAPart, "__init__", init)


def nothing_starts_random(patch):
    """P, Λ and Q all zero: no gradient reaches any of them."""
    right = AdaLoRAPart.__init__

    def init(self, layer, method, rank):
        right(self, layer, method, rank)
        nn.init.zeros_(self.lora_A)
        nn.init.zeros_(self.lora_B)

    patch.setattr(AdaLoRAPart, "__init__", init)


def file_without_a_pattern(patch):
    right = AdaLoRAAdapter.to_peft
    patch.setattr(AdaLoRAAdapter, "to_peft", lambda self: right(self) | {"rank_pattern": None})


def stores_what_is_dropped(patch):
    patch.setattr(AdaLoRAAdapter, "file_tensors", PartsAdapter.file_tensors)
    patch.setattr(AdaLoRAAdapter, "load_tensors", PartsAdapter.load_tensors)


def scale_of_the_pruned_rank_after_loading(patch):
    scaled(lambda part, method: method.alpha / max(1, len(part.kept)))(patch)


def allocates_for_adapters_that_are_off(patch):
    """The training loop asks every adapter, active or not."""
    patch.setattr(AdaLoRAAdapter, "active", property(lambda self: True, lambda self, on: None), raising=False)


def formula_of_lora(self, model):
    layers = find_linear(model, self.target_modules).values()
    return sum(self.initial_rank * sum(linear_shape(layer)) for layer in layers)


MUTANTS = [
    Mutant("divides alpha by the rank that is left", "AdaLoRA", scale_follows_the_rank),
    Mutant("scales by alpha, not alpha/r", "AdaLoRA", scaled(lambda part, method: method.alpha)),
    Mutant("divides by the pruned rank after loading", "AdaLoRA", scale_of_the_pruned_rank_after_loading,
           checks=(pruned_files, )),
    Mutant("scores by |λ| alone", "AdaLoRA", scored(lambda self: self.size, keep_lambda), checks=ALLOCATOR),
    Mutant("scores by the sensitivity of λ alone", "AdaLoRA", scored(lambda_only), checks=ALLOCATOR),
    Mutant("leaves out the uncertainty", "AdaLoRA", scored(without_uncertainty), checks=ALLOCATOR),
    Mutant("sums over rows and columns instead of averaging", "AdaLoRA", scored(average), checks=ALLOCATOR),
    Mutant("does not smooth the sensitivity", "AdaLoRA", without_smoothing, checks=ALLOCATOR),
    Mutant("reads gradients after zero_grad", "AdaLoRA", step(after_zero_grad)),
    Mutant("zeroes rows of Q and columns of P instead of Λ", "AdaLoRA", step(masks_rows_of_a)),
    Mutant("squares the norms of the penalty", "AdaLoRA",
           lambda patch: patch.setattr(AdaLoRAAdapter, "penalty", squared)),
    Mutant("sums the norms of the penalty", "AdaLoRA", summed),
    Mutant("has no penalty", "AdaLoRA", lambda patch: patch.setattr(AdaLoRAAdapter, "penalty", PartsAdapter.penalty)),
    Mutant("lowers the budget along a line", "AdaLoRA", budget(linear),
           checks=(own.test_the_budget_falls_along_a_cubic_curve,)),
    Mutant("lowers the budget during the warm-up", "AdaLoRA", budget(shrinks_during_warmup),
           checks=(own.test_the_budget_falls_along_a_cubic_curve,)),
    Mutant("drops before the optimiser step, which undoes it", "AdaLoRA", masks_before_the_step),
    Mutant("chooses layer by layer", "AdaLoRA", per_layer, checks=ALLOCATOR),
    Mutant("keeps the least important", "AdaLoRA", keeps_the_least_important, checks=ALLOCATOR),
    Mutant("goes on choosing in the final phase", "AdaLoRA", step(goes_on_choosing), checks=ALLOCATOR),
    Mutant("drops for good from the first choice on", "AdaLoRA", step(dropped_for_good), checks=ALLOCATOR),
    Mutant("does not hold on to the last choice", "AdaLoRA", step(never_settles), checks=ALLOCATOR),
    Mutant("makes P and Q orthogonal by QR at every step", "AdaLoRA", step(qr_every_step)),
    Mutant("never chooses", "AdaLoRA", step(lambda self, step, steps: None)),
    Mutant("starts Λ at one", "AdaLoRA", lambda_starts_at_one),
    Mutant("starts P, Λ and Q at zero", "AdaLoRA", nothing_starts_random,
           checks=(own.test_learns_from_the_first_step,)),
    Mutant("forgets importance when training is interrupted", "AdaLoRA",
           lambda patch: patch.setattr(PartsAdapter, "training_state", lambda self: {}), "ours"),
    Mutant("forgets the rank pattern in the file", "AdaLoRA", file_without_a_pattern, checks=(pruned_files,)),
    Mutant("stores triplets that were dropped", "AdaLoRA", stores_what_is_dropped, checks=(pruned_files,)),
    Mutant("allocates for adapters that are switched off", "AdaLoRA", allocates_for_adapters_that_are_off,
           checks=(own.test_an_adapter_that_is_switched_off_is_left_alone,)),
    Mutant("forgets Λ in the formula", "AdaLoRA",
           lambda patch: patch.setattr(AdaLoRA, "trained_parameters", formula_of_lora)),
]  # fmt: skip
