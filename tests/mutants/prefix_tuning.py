"""Prefix tuning, as people get it wrong."""

import torch
from torch import nn

from methods import test_prefix_tuning as particular
from mutants.mutant import Mutant, in_half_precision
from pefteach.methods import prefix_tuning
from pefteach.methods.core.positions import extend
from pefteach.methods.prefix_tuning import PrefixAdapter, PrefixPart, PrefixTuning
from pefteach.model.decoder import Config, RotaryEmbedding, rotate


def replacing(name, wrong):
    return lambda patch: patch.setattr(PrefixPart, name, wrong)


def extending(change):
    """Change the inputs once they are extended."""

    def wrong(n, tokens, inputs, names):
        extended = extend(n, tokens, inputs, names)
        change(extended, n, inputs)
        return extended

    return lambda patch: patch.setattr(prefix_tuning, "extend", wrong)


def pairing(change):
    """Change the keys and values of the layers."""
    right = PrefixPart.pairs
    return replacing("pairs", lambda self, rows: change(self, right(self, rows)))


def calling(change):
    """Change what the model returns."""
    right = PrefixPart.forward

    def wrong(self, call, *args, **kwargs):
        return change(self, right(self, call, *args, **kwargs))

    return replacing("forward", wrong)


def after_init(change):
    right = PrefixPart.__init__

    def wrong(self, model, method):
        right(self, model, method)
        change(self, model)

    return replacing("__init__", wrong)


def mask_as_it_was(extended, n, inputs):
    extended["attention_mask"] = inputs["attention_mask"]


def mask_inverted(extended, n, inputs):
    extended["attention_mask"][:, :n] = 0


def mask_behind(extended, n, inputs):
    extended["attention_mask"] = extended["attention_mask"].roll(-n, 1)


def mask_only_at_first(extended, n, inputs):
    if inputs["past_key_values"].get_seq_length() > n:
        mask_as_it_was(extended, n, inputs)


def text_from_zero(extended, n, inputs):
    if "position_ids" in extended:
        extended["position_ids"] = extended["position_ids"] - n


def pads_counted(extended, n, inputs):
    if inputs.get("position_ids") is None:
        extended.pop("position_ids", None)


def keys_of_all_layers_first(self, rows):
    both = self.prefix().view(self.embedding.num_embeddings, 2, -1, self.key_heads, self.d).permute(1, 2, 3, 0, 4)
    both = both.to(self.base_embedding().weight.dtype)[:, :, None].expand(-1, -1, rows, -1, -1, -1)
    return list(zip(both[0], both[1]))


def heads_before_layers(self, rows):
    prefix = self.prefix().to(self.base_embedding().weight.dtype)
    both = prefix.view(len(prefix), self.key_heads, -1, self.d).permute(2, 1, 0, 3)
    both = both[:, None].expand(-1, rows, -1, -1, -1)
    return list(zip(both[0::2], both[1::2]))


def turned_by_rope(self, pairs):
    angles = RotaryEmbedding(Config(head_dim=self.d))(torch.arange(self.embedding.num_embeddings)[None])
    return [(rotate(key, *angles), value) for key, value in pairs]


def all_heads(patch):
    right = prefix_tuning.attention_sizes

    def wrong(model):
        layers, heads, _, d = right(model)
        return layers, heads, heads, d

    patch.setattr(prefix_tuning, "attention_sizes", wrong)


def through_the_projections(patch):
    """The prefix is a hidden state of which the layer makes keys and values, as in LLaMA-Adapter."""

    def remember(self, model):
        self.__dict__["attentions"] = [block.attn for block in model.transformer.h]

    def project(self, pairs):
        flat = lambda x: x.transpose(1, 2).flatten(2).contiguous()
        split = lambda x: x.unflatten(-1, (-1, self.d)).transpose(1, 2)
        return [(split(a.c_attn(flat(key))[..., 64:128]), split(a.c_attn(flat(value))[..., 128:]))
                for a, (key, value) in zip(self.attentions, pairs)]  # fmt: skip

    after_init(remember)(patch)
    pairing(project)(patch)


def cut_logits(self, output):
    output.logits = output.logits[:, self.embedding.num_embeddings :]
    return output


def at_every_call(self, call, *args, **kwargs):
    cache = kwargs.get("past_key_values")
    cache = self.new_cache() if cache is None else cache
    for layer, (key, value) in enumerate(self.pairs(len(kwargs["input_ids"] if not args else args[0]))):
        cache.update(key, value, layer)
    kwargs = dict(zip(self.names, args)) | kwargs | {"past_key_values": cache}
    return call(**extend(self.embedding.num_embeddings, kwargs["input_ids"].shape[1], kwargs, self.names))


def zeros_as_a_neutral_start(patch):
    after_init(lambda self, model: nn.init.zeros_(self.embedding.weight))(patch)
    patch.setattr(PrefixTuning, "starts_as_base", True)


def stores_the_embedding(patch):
    patch.setattr(PrefixAdapter, "file_tensors", lambda self: {"prompt_embeddings": self.part.embedding.weight})


def drops_the_mlp_alone(patch):
    def collapse(self):
        self.part.transform = None

    patch.setattr(PrefixAdapter, "collapse", collapse)


def fills_before_the_mlp(patch):
    patch.setattr(PrefixAdapter, "load_tensors", PrefixAdapter.__mro__[1].load_tensors)


def keeps_the_mlp_in_the_file(patch):
    right = PrefixAdapter.file_tensors
    patch.setattr(PrefixAdapter, "file_tensors", lambda self: {**right(self), **self.trained_tensors()})


def cache_comes_back(patch):
    right = PrefixPart.forward

    def wrong(self, call, *args, **kwargs):
        kept = []

        def remember(**inputs):
            kept.append(inputs["past_key_values"])
            return call(**inputs)

        output = right(self, remember, *args, **kwargs)
        output.past_key_values = kept[0]
        return output

    patch.setattr(PrefixPart, "forward", wrong)


def generates_without_a_cache():
    particular.test_generates_what_peft_generates("llama", False)


def counts_the_prefix_as_wide_as_the_stream(patch):
    patch.setattr(PrefixTuning, "trained_parameters", lambda self, model: self.num_virtual_tokens * 2 * 2 * 64)


DIRECT, WITH_MLP = "prefix tuning", "prefix tuning, MLP"
MUTANTS = [
    Mutant("leaves the mask as it was", DIRECT, extending(mask_as_it_was)),
    Mutant("masks the prefix out", DIRECT, extending(mask_inverted)),
    Mutant("extends the mask behind the text", DIRECT, extending(mask_behind)),
    Mutant("extends the mask in the first call only", DIRECT, extending(mask_only_at_first)),
    Mutant("puts the keys of all layers before their values", DIRECT, replacing("pairs", keys_of_all_layers_first)),
    Mutant("splits heads before layers", DIRECT, replacing("pairs", heads_before_layers)),
    Mutant("takes keys for values", DIRECT, pairing(lambda self, pairs: [(v, k) for k, v in pairs])),
    Mutant("gives every query head a key of its own", DIRECT, all_heads),
    Mutant("counts the prefix as wide as the stream", DIRECT, counts_the_prefix_as_wide_as_the_stream),
    Mutant("turns the prefix by RoPE", DIRECT, pairing(turned_by_rope)),
    Mutant("numbers the text from 0", DIRECT, extending(text_from_zero)),
    Mutant("numbers the text over its padding", DIRECT, extending(pads_counted)),
    Mutant("sends the prefix through k_proj and v_proj", DIRECT, through_the_projections, "gpt2"),
    Mutant("cuts the logits by the prefix", DIRECT, calling(cut_logits)),
    Mutant("shares one prefix among the layers", DIRECT, pairing(lambda self, pairs: [pairs[0]] * len(pairs))),
    Mutant("leaves the last layer out", DIRECT,
           pairing(lambda self, pairs: [*pairs[:-1], tuple(torch.zeros_like(x) for x in pairs[-1])])),
    Mutant("repeats a detached prefix", DIRECT,
           pairing(lambda self, pairs: [(k.detach().clone(), v.detach().clone()) for k, v in pairs])),
    Mutant("gives the prefix to the first row alone", DIRECT, pairing(lambda self, pairs: [
        (torch.cat([k[:1], 0 * k[1:]]), torch.cat([v[:1], 0 * v[1:]])) for k, v in pairs])),
    Mutant("puts the prefix in again at every call", DIRECT, replacing("forward", at_every_call)),
    Mutant("calls zeros a neutral start", DIRECT, zeros_as_a_neutral_start),
    Mutant("keeps the prefix in the base's half precision", DIRECT, in_half_precision(PrefixTuning)),
    Mutant("gives its cache back to a caller who wants none", DIRECT, cache_comes_back,
           checks=(generates_without_a_cache,)),
    Mutant("saves P' and not P", WITH_MLP, stores_the_embedding),
    Mutant("keeps the MLP in the file", WITH_MLP, keeps_the_mlp_in_the_file,
           checks=(particular.test_collapsing_keeps_the_prefix_and_drops_the_mlp,)),
    Mutant("drops the MLP without computing P", WITH_MLP, drops_the_mlp_alone,
           checks=(particular.test_collapsing_keeps_the_prefix_and_drops_the_mlp,)),
    Mutant("fills values in front of the MLP", WITH_MLP, fills_before_the_mlp,
           checks=(particular.test_stored_values_fit_an_adapter_that_has_its_mlp,)),
    Mutant("leaves the MLP without its tanh", WITH_MLP,
           after_init(lambda self, model: self.transform.__setitem__(1, nn.Identity()))),
]  # fmt: skip
