"""Prompt tuning, as people get it wrong."""

import torch

from methods import test_prompt_tuning as particular
from mutants.mutant import Mutant, in_half_precision, on
from pefteach.methods import PromptTuning
from pefteach.methods.core import soft_prompt
from pefteach.methods.core.positions import extend
from pefteach.methods.core.soft_prompt import PromptAdapter, PromptPart, SoftPrompt


def forward(
    put=lambda prompt, text: torch.cat([prompt, text], 1),
    trim=lambda logits, T: logits[:, -T:],
    prompt=lambda part: part.vectors(),
    again=False,
    labelled=True,
    inputs_for=lambda right, given: right,
):
    """Replace a prompt's forward by this one, which is right but for what is passed in."""

    def wrong(self, call, *args, **kwargs):
        given = dict(zip(self.names, args, strict=False)) | kwargs
        ids, text = given.pop("input_ids", None), given.pop("inputs_embeds", None)
        text = self.embed()(ids) if text is None else text
        B, T, _ = text.shape
        n, cache = self.embedding.num_embeddings, given.get("past_key_values")
        past = cache.get_seq_length() if cache is not None else 0
        soft_prompt.check_length(self.config, n, max(0, past - n) + T)
        inputs = inputs_for(extend(n, T, given, self.names), given)
        if past == 0 or again:
            text = put(prompt(self).to(text.dtype).expand(B, -1, -1), text)
            front = {"position_ids": range(n), "labels": [-100] * n, "token_type_ids": [0] * n}
            for key, values in front.items():
                rows = inputs.get(key)
                if rows is not None and (labelled or key != "labels"):
                    inputs[key] = torch.cat([rows.new_tensor(values).expand(len(rows), -1), rows], 1)
        output = call(inputs_embeds=text, **inputs)
        output.logits = trim(output.logits, T)
        return output

    return lambda patch: patch.setattr(PromptPart, "forward", wrong)


def without(*keys):
    """Leave these inputs as the caller gave them."""
    return lambda right, given: right | {key: given[key] for key in keys if key in given}


def unnumbered(right, given):
    """Let the model number 0, 1, 2 ..., padding included: pads on the left push the text away from the prompt."""
    return {key: value for key, value in right.items() if key != "position_ids"}


def mask_forgotten_behind_the_cache(right, given):
    cache = given.get("past_key_values")
    return right if cache is None or cache.get_seq_length() == 0 else without("attention_mask")(right, given)


def enters_behind(module):
    """Put the prompt in behind ``module``: whatever the model does to embeddings does not happen to the prompt."""

    def patch_forward(patch):
        right = PromptPart.forward

        def wrong(self, call, *args, **kwargs):
            n = self.embedding.num_embeddings
            there = self.embed.__self__.get_submodule(module)
            place = lambda m, i, out: torch.cat([self.vectors().to(out).expand(len(out), -1, -1), out[:, n:]], 1)
            hook = there.register_forward_hook(place)
            try:
                return right(self, call, *args, **kwargs)
            finally:
                hook.remove()

        patch.setattr(PromptPart, "forward", wrong)

    return patch_forward


def grows_the_vocabulary(patch):
    right = SoftPrompt.vocabulary

    def vocabulary(self, model):
        model.resize_token_embeddings(
            len(model.get_input_embeddings().weight) + self.num_virtual_tokens, mean_resizing=False
        )
        return right(self, model)

    patch.setattr(SoftPrompt, "vocabulary", vocabulary)


def starting(start):
    return lambda patch: patch.setattr(PromptTuning, "start", start)


def random_words(self, vocabulary):
    return vocabulary[torch.randint(len(vocabulary), (self.num_virtual_tokens,))]


MUTANTS = [
    Mutant("does not extend the mask", "prompt tuning", forward(inputs_for=without("attention_mask"))),
    Mutant("forgets the longer mask once there is a cache", "prompt tuning",
           forward(inputs_for=mask_forgotten_behind_the_cache)),
    Mutant("does not pad the labels", "prompt tuning", forward(labelled=False),
           checks=(on(particular.test_labels_give_the_loss_that_peft_gives, family="llama"),)),
    Mutant("cuts the logits at the end, not at the start", "prompt tuning", forward(trim=lambda x, T: x[:, :T])),
    Mutant("leaves the prompt's logits in", "prompt tuning", forward(trim=lambda x, T: x)),
    Mutant("puts the prompt behind the text", "prompt tuning",
           forward(put=lambda prompt, text: torch.cat([text, prompt], 1))),
    Mutant("skips the norm and the places that the model adds to embeddings", "prompt tuning",
           enters_behind("bert.embeddings"), "bert"),
    Mutant("skips the places and the dropout that the model adds to embeddings", "prompt tuning",
           enters_behind("transformer.drop"), "gpt2"),
    Mutant("takes models that read their answer at one place", "prompt tuning",
           lambda patch: patch.setattr(soft_prompt, "output_layer", lambda model: model),
           checks=(particular.test_refuses_models_without_a_place_for_it,)),
    Mutant("makes the prompt new rows of the vocabulary", "prompt tuning", grows_the_vocabulary),
    Mutant("counts padding between prompt and text as places", "prompt tuning", forward(inputs_for=unnumbered)),
    Mutant("counts padding between prompt and text as places", "prompt tuning", forward(inputs_for=unnumbered),
           "gpt2", (on(particular.test_padding_on_the_left_changes_nothing, family="gpt2"),)),
    Mutant("does not shift the caller's positions", "prompt tuning", forward(inputs_for=without("position_ids")),
           "gpt2"),
    Mutant("puts the prompt in again behind the cache", "prompt tuning", forward(again=True)),
    Mutant("passes on a cache position that knows nothing of the prompt", "prompt tuning",
           forward(inputs_for=without("cache_position"))),
    Mutant("lets no gradient reach the prompt", "prompt tuning",
           forward(prompt=lambda part: part.vectors().detach())),
    Mutant("repeats the first vector", "prompt tuning",
           forward(prompt=lambda part: part.vectors()[:1].expand(5, -1))),
    Mutant("reads the prompt backwards", "prompt tuning", forward(prompt=lambda part: part.vectors().flip(0))),
    Mutant("trains the vocabulary's own rows", "prompt tuning",
           starting(lambda self, vocabulary: vocabulary[: self.num_virtual_tokens])),
    Mutant("starts fifty times too large", "prompt tuning",
           starting(lambda self, vocabulary: torch.randn(self.num_virtual_tokens, vocabulary.shape[1])),
           checks=(particular.test_starts_as_it_is_told,)),
    Mutant("starts from random words whatever it is told", "prompt tuning", starting(random_words),
           checks=(particular.test_starts_as_it_is_told,)),
    Mutant("keeps the prompt in the base's half precision", "prompt tuning", in_half_precision(PromptTuning)),
    Mutant("saves a prompt of zeros", "prompt tuning",
           lambda patch: patch.setattr(PromptAdapter, "file_tensors",
                                       lambda self: {"prompt_embeddings": self.part.embedding.weight * 0})),
]  # fmt: skip
