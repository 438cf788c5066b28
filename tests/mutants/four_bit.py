"""4-bit quantisation, as people get it wrong."""

import dataclasses
from functools import partial

import torch

from mutants.mutant import Mutant, on
from pefteach.quant import blockwise, codebooks, double, four_bit, linear4bit, load
from pefteach.quant.grids import in_groups
from pefteach.quant.linear4bit import Linear4bit
from quant import checks, test_linear4bit, test_load

pack = four_bit.pack_pairs


def encoding(change):
    """Change what ``encode`` returns for 4-bit codes."""

    def patch(monkeypatch):
        right = four_bit.encode
        monkeypatch.setattr(four_bit, "encode", lambda x, name, size: change(x.float(), size, *right(x, name, size)))

    return patch


def dequantising(change):
    """Change a quantised tensor, or the precision, before it is dequantised."""

    def patch(monkeypatch):
        right = four_bit.Quantised4bit.dequantise
        monkeypatch.setattr(
            four_bit.Quantised4bit, "dequantise", lambda q, dtype=None: change(right, q, dtype or q.dtype)
        )

    return patch


def levels(change):
    """Change the levels of NF4."""
    return lambda patch: patch.setattr(codebooks, "_NF4", change(torch.tensor(codebooks._NF4)).tolist())


def one_scale(x, size, codes, absmax):
    whole, _ = blockwise.encode(x, "nf4", len(x))
    return torch.cat([whole, codes[len(whole) :]]), absmax.amax().expand_as(absmax)


def uniform_steps(x, size, codes, absmax):
    scaled = in_groups(x, size) / absmax.clamp(min=1e-38)[:, None]
    return (scaled * 7.5 + 7.5).round().clamp(0, 15).to(torch.uint8).view(-1), absmax


def upper_ties(patch):
    patch.setattr(blockwise, "count_below", lambda x, edges: torch.bucketize(x, edges, right=True).to(torch.uint8))


def signed_codes(right, q, dtype):
    """The top bit of the first code of each pair is flipped, as where codes pass for int4: 8 to 15 become 0 to 7."""
    return right(dataclasses.replace(q, packed=q.packed ^ 0x80), dtype)


def rounded_first(right, q, dtype):
    """Level and scale are rounded to the low precision before they are multiplied."""
    if isinstance(q.absmax, double.NestedAbsmax):
        return right(q, dtype)
    levels = right(dataclasses.replace(q, absmax=torch.ones_like(q.absmax)), dtype)
    return levels * q.absmax.to(dtype).repeat_interleave(q.block_size)[: levels.numel()].view(levels.shape)


def no_offset_back(patch):
    patch.setattr(double.NestedAbsmax, "expand", lambda s: double.decode(s.codes, s.absmax, "dynamic", double.BLOCK))


def no_offset(patch):
    def compress(absmax):
        codes, scales = double.encode(absmax, "dynamic", double.BLOCK)
        return double.NestedAbsmax(codes[: len(absmax)], scales, torch.zeros(()))

    patch.setattr(four_bit, "compress", compress)


def codes_from_quantised_scales(patch):
    right = four_bit.quantise_4bit

    def quantise(x, quant_type="nf4", block_size=64, double_quantisation=False):
        q = right(x, quant_type, block_size, double_quantisation)
        scales = q.absmax.expand() if double_quantisation else q.absmax
        scales = scales.repeat_interleave(block_size)[: x.numel()]
        midpoints, order = codebooks.boundaries(quant_type)
        codes = order[torch.bucketize(x.reshape(-1).float() / scales, midpoints)]
        return dataclasses.replace(q, packed=pack(codes)[:, None])

    patch.setattr(checks, "quantise_4bit", quantise)


def rows_for_blocks(patch):
    """A block ends where its row ends."""
    right = four_bit.quantise_4bit

    def quantise(x, quant_type="nf4", block_size=64, double_quantisation=False):
        return right(x, quant_type, min(block_size, x.shape[-1]), double_quantisation)

    patch.setattr(checks, "quantise_4bit", quantise)


def gradient_for_the_base(patch):
    """Autograd keeps the full weight for the backward pass."""
    patch.setattr(linear4bit._FrozenLinear, "apply", lambda x, w: torch.nn.functional.linear(x, w.dequantise(x.dtype)))


def dequantised_once(patch):
    right = Linear4bit.from_linear.__func__

    def from_linear(cls, layer, *how, **settings):
        new = right(cls, layer, *how, **settings)
        new.full = torch.nn.Parameter(new.weight, requires_grad=False)
        return new

    patch.setattr(Linear4bit, "from_linear", classmethod(from_linear))


def the_head_too(patch):
    patch.setattr(load, "block_linears", lambda model: {p: m for p, m in load.base_modules(model) if load.is_linear(m)})


def merging_into_a_copy_that_is_lost(patch):
    patch.setattr(Linear4bit, "weight", property(lambda self: torch.nn.Parameter(self.quantised.dequantise())))


def rounds_the_scales(patch):
    def apply(self, fn, recurse=True):
        self.quantised = self.quantised.map(fn)
        return torch.nn.Module._apply(self, fn)

    patch.setattr(Linear4bit, "_apply", apply)


number = partial(Mutant, of="4-bit tensor", family="", checks=checks.CHECKS)
layer = partial(Mutant, of="4-bit layer", family="")
NO_GRADIENT = (test_linear4bit.test_the_base_gets_no_gradient_and_is_kept_in_4_bits,)

MUTANTS = [
    number("one scale for the whole tensor", patch=encoding(one_scale)),
    number("a block ends with its row", patch=rows_for_blocks),
    number("the low half first",
           patch=lambda patch: patch.setattr(four_bit, "pack_pairs", lambda c: pack(c) << 4 | pack(c) >> 4)),
    number("rounded to even steps", patch=encoding(uniform_steps)),
    number("ties to the upper level", patch=upper_ties),
    number("a symmetric code book", patch=levels(lambda v: torch.cat([-v[8:].flip(0), v[8:]]))),
    number("no level at zero", patch=levels(lambda v: torch.where(v == 0, v + 0.01, v))),
    number("the paper's equation 4 without its ends", patch=levels(lambda v: v / v[1].abs())),
    number("scaled by the standard deviation",
           patch=encoding(lambda x, size, codes, _: (codes, in_groups(x, size).std(1)))),
    number("scaled by the largest value, not magnitude",
           patch=encoding(lambda x, size, c, _: (c, in_groups(x, size).amax(1)))),
    number("scales in half precision", patch=encoding(lambda x, size, codes, absmax: (codes, absmax.half().float()))),
    number("int4 codes whose sign is lost", patch=dequantising(signed_codes)),
    number("rounded before the product", patch=dequantising(rounded_first)),
    number("product rounded to bfloat16 first",
           patch=dequantising(lambda right, q, dtype: right(q, torch.bfloat16).to(dtype))),
    number("the offset not put back", patch=no_offset_back),
    number("no offset taken off", patch=no_offset),
    number("the scales' scales per 256 weights", patch=lambda patch: patch.setattr(double, "BLOCK", 4)),
    number("scales on a uniform 8-bit grid",
           patch=lambda patch: patch.setattr(codebooks, "derive_dynamic", lambda: torch.linspace(-1, 1, 256))),
    number("codes from the quantised scales", patch=codes_from_quantised_scales),
    layer("the base's weight kept for the backward pass", patch=gradient_for_the_base, checks=NO_GRADIENT),
    layer("dequantised once and kept", patch=dequantised_once, checks=NO_GRADIENT),
    layer("the head in 4 bits", patch=the_head_too,
          checks=(on(test_load.test_the_blocks_go_to_4_bits_and_the_rest_stays, family="llama"),)),
    layer("fp4, the library's default",
          patch=lambda patch: patch.setattr(Linear4bit.from_linear.__func__, "__defaults__", ("fp4", 64, True, None)),
          checks=(test_linear4bit.test_says_what_it_is,)),
    layer("merging into a copy that is lost", patch=merging_into_a_copy_that_is_lost,
          checks=(on(test_load.test_merging_is_into_a_dequantised_copy, family="ours", backend="pefteach"),)),
    layer("no check of bitsandbytes",
          patch=lambda patch: patch.setattr(load, "check_bitsandbytes", lambda model: model),
          checks=(on(test_load.test_rows_that_are_not_whole_blocks_are_refused_where_bitsandbytes_gets_them_wrong),)),
    layer("scales rounded by .half()", patch=rounds_the_scales,
          checks=(on(test_linear4bit.test_a_change_of_precision_leaves_the_scales_alone, change="half"),)),
]  # fmt: skip
