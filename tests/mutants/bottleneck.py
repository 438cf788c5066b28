"""Bottleneck adapters, as people get them wrong."""

import dataclasses
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from methods.core import test_bottleneck as particular
from mutants.mutant import Mutant, in_half_precision
from pefteach.interop import adapters_files
from pefteach.methods import HoulsbyAdapters, ParallelAdapters, PfeifferAdapters
from pefteach.methods.core import bottleneck, sites
from pefteach.methods.core.bottleneck import BottleneckPart, StreamPart
from pefteach.methods.houlsby import HoulsbyPart
from pefteach.methods.parallel import ParallelPart
from pefteach.methods.pfeiffer import PfeifferNormPart, PfeifferPart
from pefteach.workshop.parity import reference


def adding(wrong):
    """Compute h + s A(x) by ``wrong(part, h, x, A(x))``, where A(x) has no scale yet."""

    def patch_add(patch):
        def add(self, h, x):
            update = self.adapter_up(self.activation(self.adapter_down(x.to(self.adapter_down.weight.dtype))))
            return wrong(self, h, x, update).to(h.dtype)

        patch.setattr(BottleneckPart, "add", add)

    return patch_add


def reading(part, wrong):
    return lambda patch: patch.setattr(part, "read", wrong)


def placing(method, wrong):
    return lambda patch: patch.setattr(method, "place", wrong)


def starting(change):
    def patch_init(patch):
        right = BottleneckPart.__init__

        def init(self, *settings):
            right(self, *settings)
            with torch.no_grad():
                change(self)

        patch.setattr(BottleneckPart, "__init__", init)

    return patch_init


def starts_large(patch):
    patch.setitem(bottleneck.INITS, "near", (partial(nn.init.normal_, std=0.2),) * 2)


def starts_uncut(patch):
    patch.setitem(bottleneck.INITS, "near", (partial(nn.init.normal_, std=0.01),) * 2)


def starts_at_zero(patch):
    patch.setitem(bottleneck.INITS, "zero", (nn.init.zeros_, nn.init.zeros_))


def behind_the_layer_norm(patch):
    """A BERT's adapter stands behind the addition and the LayerNorm, where the next layer reads."""
    row = "attention, intermediate, output"
    late = {"attention": "attention.output.LayerNorm", "feed_forward": "output.LayerNorm"}
    patch.setitem(sites.SITES, row, dataclasses.replace(sites.SITES[row], **late))
    patch.setitem(adapters_files.PLACES, "attention.output.LayerNorm", "attention.output")


def on_the_whole_attention_output(patch):
    """A Llama's adapter reads the sum that holds the residual already."""

    def place(self, sites, D, m):
        stream = StreamPart()
        return {
            sites.attention: HoulsbyPart(D, m, self),
            sites.stream: stream,
            sites.feed_forward: PfeifferPart(D, m, self, stream),
        }

    patch.setattr(HoulsbyAdapters, "place", place)


def on_the_whole_block(patch):
    """The logits are right, but transformers records a block's hidden states before they pass the adapter."""

    def add(self, result):
        return (self.add(result[0], result[0]), *result[1:]) if isinstance(result, tuple) else self.add(result, result)

    class BlockPart(HoulsbyPart):
        def forward(self, call, *args, **kwargs):
            return add(self, call(*args, **kwargs))

    def build(self, model, name):
        D, m = self.widths(model)
        parts = {path: BlockPart(D, m, self) for path in sites.find_sites(model)}
        return bottleneck.PartsAdapter(self, model, name, parts)

    def names(adapter, name):
        key = lambda k: k.removeprefix("base_model.model.").replace("adapter_down.", "adapter_down.0.")
        place = lambda k: k.replace("adapter_", f"output_adapters.adapters.{name}.adapter_", 1)
        return {k: place(key(k)) for k in adapter.file_tensors()}

    patch.setattr(PfeifferAdapters, "build", build)
    patch.setattr("pefteach.workshop.parity.reference.library_names", names)


def before_the_dropout(patch):
    row = "attention, intermediate, output"
    early = {"attention": "attention.output.dense", "feed_forward": "output.dense"}
    patch.setitem(sites.SITES, row, dataclasses.replace(sites.SITES[row], **early))
    for name in early.values():
        patch.setitem(adapters_files.PLACES, name, name.removesuffix(".dense"))


def norm_once(self, call, total):
    return self.add(call(total), call(total))


def reads_before_the_norm(self, call, total):
    return call(self.add(total, total))


def norm_of_the_stream(self, call, x):
    self.x = call(x)
    return self.x


def forgets_nothing(self):
    return self.__dict__.setdefault("kept", self.x.detach())


def reads_the_attention_too(self, sites, D, m):
    stream = StreamPart()
    return {
        sites.attention: HoulsbyPart(D, m, self),
        sites.stream: stream,
        sites.feed_forward: ParallelPart(D, m, self, stream),
    }


def knows_blocks_by_some_names(patch):
    """A block that has every name of a Llama's, and more, passes for one."""
    right, llama = sites.find_sites, next(iter(sites.SITES))

    def find(model, given=None):
        block = next(iter(sites.find_blocks(model).values()))
        known = all(hasattr(block, name) for name in llama.split(", "))
        return right(model, sites.SITES[llama] if known and given is None else given)

    patch.setattr(bottleneck, "find_sites", find)


def writing(change):
    """Write one of the library's settings wrong."""

    def patch_config(patch):
        right = adapters_files.library_config
        for module in (adapters_files, reference, particular):
            patch.setattr(module, "library_config", lambda method, model: change(right(method, model), method, model))

    return patch_config


def rounded_reduction(config, method, model):
    D, m = method.widths(model)
    return config | {"reduction_factor": D / m}


def loads_what_fits(patch):
    right = bottleneck.PartsAdapter.load_tensors

    def load_tensors(self, tensors):
        wanted = self.file_tensors()
        right(self, {**wanted, **{key: t for key, t in tensors.items() if key in wanted}})

    patch.setattr(bottleneck.PartsAdapter, "load_tensors", load_tensors)


def plain_scale(self):
    if isinstance(self.scaling, nn.Parameter):
        del self.scaling
        self.scaling = 1.0


def stands_behind_the_dropout_of_the_base():
    particular.test_stands_behind_the_dropout_of_the_base("bert", particular.KINDS["Houlsby"])


def hidden_states_are_those_with_the_adapter():
    particular.test_hidden_states_are_those_with_the_adapter(PfeifferAdapters(9))


def the_size_survives_the_reduction_factor():
    particular.test_the_size_survives_the_librarys_reduction_factor(192)


MUTANTS = [
    # Houlsby
    Mutant("stands behind the addition and the LayerNorm", "Houlsby", behind_the_layer_norm, "bert"),
    Mutant("reads the sum with the residual", "Houlsby", on_the_whole_attention_output),
    Mutant("has no skip of its own", "Houlsby", adding(lambda self, h, x, A: self.scaling * A)),
    Mutant("adds the residual twice", "Houlsby", adding(lambda self, h, x, A: h + (h + self.scaling * A))),
    Mutant("starts both matrices large", "Houlsby", starts_large, checks=(particular.test_starts_near_the_base,)),
    Mutant("starts with uncut normals", "Houlsby", starts_uncut,
           checks=(particular.test_near_is_cut_at_two_widths,)),
    Mutant("starts with random biases", "Houlsby",
           starting(lambda self: nn.init.normal_(self.adapter_up.bias, std=0.01)),
           checks=(particular.test_starts_like_the_library,)),
    Mutant("counts two per block and places one", "Houlsby",
           placing(HoulsbyAdapters, lambda self, sites, D, m: {sites.feed_forward: HoulsbyPart(D, m, self)})),
    Mutant("puts the activation behind W_up", "Houlsby",
           adding(lambda self, h, x, A: h + self.scaling * self.activation(self.adapter_up(self.adapter_down(x))))),
    Mutant("has no activation", "Houlsby",
           adding(lambda self, h, x, A: h + self.scaling * self.adapter_up(self.adapter_down(x)))),
    Mutant("takes gelu where the paper's code has its approximation", "Houlsby, learned scale",
           lambda patch: patch.setitem(bottleneck.ACTIVATIONS, "gelu_new", F.gelu)),
    Mutant("never learns the scale", "Houlsby, learned scale", starting(plain_scale)),
    Mutant("stands before the base's dropout", "Houlsby", before_the_dropout, "bert",
           (stands_behind_the_dropout_of_the_base,)),
    Mutant("never drops anything", "Houlsby", adding(lambda self, h, x, A: h + self.scaling * A),
           checks=(particular.test_dropout_takes_its_share_of_the_update,)),
    Mutant("drops numbers of h too", "Houlsby",
           adding(lambda self, h, x, A: F.dropout(h + self.scaling * A, self.dropout, self.training)),
           checks=(particular.test_dropout_takes_its_share_of_the_update,)),
    Mutant("keeps its tensors in the base's half precision", "Houlsby", in_half_precision(HoulsbyAdapters)),
    # Pfeiffer
    Mutant("reads h alone, as Houlsby's does", "Pfeiffer", reading(PfeifferPart, lambda self, h: h)),
    Mutant("normalises once", "Pfeiffer", lambda patch: patch.setattr(PfeifferNormPart, "forward", norm_once), "bert"),
    Mutant("reads the sum before it is normalised", "Pfeiffer",
           lambda patch: patch.setattr(PfeifferNormPart, "forward", reads_before_the_norm), "bert"),
    Mutant("adds the stream a second time", "Pfeiffer", adding(lambda self, h, x, A: x + self.scaling * A)),
    Mutant("stands around the whole block", "Pfeiffer", on_the_whole_block,
           checks=(hidden_states_are_those_with_the_adapter,)),
    Mutant("takes a Gemma 2 for a Llama", "Pfeiffer", knows_blocks_by_some_names,
           checks=(particular.test_refuses_blocks_it_does_not_know,)),
    # Parallel
    Mutant("reads what the feed-forward gives", "parallel adapters", reading(ParallelPart, lambda self, h: h)),
    Mutant("reads the normalised stream", "parallel adapters",
           lambda patch: patch.setattr(StreamPart, "forward", norm_of_the_stream)),
    Mutant("reads the stream of an earlier call", "parallel adapters",
           lambda patch: patch.setattr(StreamPart, "take", forgets_nothing)),
    Mutant("forgets the scale", "parallel adapters", adding(lambda self, h, x, A: h + A)),
    Mutant("scales h too", "parallel adapters", adding(lambda self, h, x, A: self.scaling * (h + A))),
    Mutant("leaves the bias unscaled", "parallel adapters",
           adding(lambda self, h, x, A: h + self.scaling * (A - self.adapter_up.bias) + self.adapter_up.bias)),
    Mutant("adds what it reads", "parallel adapters", adding(lambda self, h, x, A: h + x + self.scaling * A)),
    Mutant("starts both matrices at zero, so nothing can move", "parallel adapters", starts_at_zero,
           checks=(particular.test_starts_like_the_library,)),
    Mutant("stands beside the attention too", "parallel adapters", placing(ParallelAdapters, reads_the_attention_too)),
    # Files
    Mutant("loses a size to rounding", "Houlsby", writing(rounded_reduction),
           checks=(the_size_survives_the_reduction_factor,)),
    Mutant("writes the scale as a whole number", "parallel adapters",
           writing(lambda config, method, model: config | {"scaling": int(config["scaling"])})),
    Mutant("writes a parallel adapter down as a serial one", "parallel adapters",
           writing(lambda config, method, model: config | {"is_parallel": False}),
           checks=(particular.test_our_settings_are_the_librarys,)),
    Mutant("ignores keys that are missing or not expected", "Pfeiffer", loads_what_fits,
           checks=(particular.test_missing_and_unexpected_keys_are_listed,)),
]  # fmt: skip
