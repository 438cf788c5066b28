"""Selective fine-tuning of the last blocks (Lee, Tang & Lin 2019)."""

from collections.abc import Iterator
from typing import Any

import torch

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake
from pefteach.exercises.subject import Subject


def inputs(draw: Draw) -> Iterator[Inputs]:
    for trains in ("", "none"):  # a model where all trains, and one where nothing does
        count = draw.integer(2, 3)
        yield {"blocks": 2 * count + draw.integer(1, 2), "tied": True, "trains": trains, "count": count}


def observe(subject: Subject, name: str, case: Inputs) -> Iterator[tuple[str, Any]]:
    count = case["count"]
    model = subject.build("pefteach.lessons.kit.models:tiny_decoder", {k: v for k, v in case.items() if k != "count"})
    before = {key: t["value"] for key, t in subject.tensors(model).items()}
    subject.call(name, {"model": model, "count": count})
    after = subject.tensors(model)
    start = "everything trains" if case["trains"] == "" else "nothing trains"
    what = f"what trains after {name}(model, count={count}), where {start} at first in {case['blocks']} blocks"
    yield what, {part: _how_much(after, part) for part in ("embed_tokens", *_blocks(case), "norm")}
    kept = before.keys() == after.keys() and all(torch.equal(before[key], after[key]["value"]) for key in before)
    yield "the weights are what they were", kept


def _blocks(case: Inputs) -> list[str]:
    return [f"layers.{i}" for i in range(case["blocks"])]


def _how_much(tensors: dict[str, dict[str, Any]], part: str) -> str:
    """Whether all, some or none of a part's parameters train."""
    flags = {t["trains"] for key, t in tensors.items() if key.startswith(f"model.{part}.")}
    return "some" if len(flags) == 2 else "all" if flags == {True} else "none"


EXERCISE = Exercise(
    name="train_last_blocks",
    title="Train the last blocks only",
    minutes=8,
    level="core",
    statement="""
Make the last `count` blocks and the final norm of a decoder trainable and freeze everything else. The blocks are
`model.model.layers`, the final norm is `model.model.norm`. The output layer `model.lm_head` is tied to the embedding,
so it stays frozen. You don't know what trains when you get the model.
""",
    code='''
def train_last_blocks(model, count):
    """Let the last blocks and the final norm train, and nothing else.

    model: a decoder, changed in place; count: a whole number of at least 1.
    Returns nothing.
    """
    ### BEGIN SOLUTION
    model.requires_grad_(False)
    for block in model.model.layers[-count:]:
        block.requires_grad_(True)
    model.model.norm.requires_grad_(True)
    ### END SOLUTION
''',
    inputs=inputs,
    observe=observe,
    mistakes=(
        Mistake(
            "attribute of a module",
            {"_(False)": " = False", "_(True)": " = True"},
            "model.requires_grad = False only sticks a new attribute on the module; its parameters don't notice. Use "
            "model.requires_grad_(False), with the underscore.",
        ),
        Mistake(
            "not frozen",
            {"model.requires_grad_(False)\n": "\n"},
            "Whatever trained before still trains. Freeze the whole model first, then let the last blocks train.",
        ),
        Mistake(
            "first blocks",
            {"[-count:]": "[:count]"},
            "These are the first blocks. The last ones are layers[-count:].",
        ),
        Mistake(
            "all but the first",
            {"[-count:]": "[count:]"},
            "layers[count:] skips the first `count` blocks and takes all others. The minus sign makes it the last "
            "ones.",
        ),
        Mistake(
            "one block",
            {"model.model.layers[-count:]": "[model.model.layers[-count]]"},
            "Only one block trains. layers[-count:], with the colon, is the last `count` of them.",
        ),
        Mistake(
            "no norm",
            {"    model.model.norm.requires_grad_(True)\n": ""},
            "The final norm is still frozen. It comes after the last block and trains with it.",
        ),
        Mistake(
            "head too",
            {"(False)\n": "(False)\n    model.lm_head.requires_grad_(True)\n"},
            "The output layer trains too. It is tied to the embedding, the same tensor: so the very first layer "
            "trains, and "
            "the backward pass has to go all the way down.",
        ),
        Mistake(
            "inverted",
            {"_(False)": "_(None)", "_(True)": "_(False)", "_(None)": "_(True)"},
            "It is the wrong way round: the last blocks are frozen and the rest trains.",
        ),
    ),
    accepted=(
        """
def train_last_blocks(model, count):
    total = len(model.model.layers)
    wanted = tuple(f"model.layers.{i}." for i in range(total - count, total)) + ("model.norm.",)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(wanted)
""",
        """
def train_last_blocks(model, count):
    for p in model.parameters():
        p.requires_grad = False
    for i in range(1, count + 1):
        for p in model.model.layers[-i].parameters():
            p.requires_grad = True
    model.model.norm.weight.requires_grad = True
    return model
""",
        """
def train_last_blocks(model, count):
    chosen = nn.ModuleList([*list(model.model.layers)[-count:], model.model.norm])
    ids = {id(p) for p in chosen.parameters()}
    for p in model.parameters():
        p.requires_grad_(id(p) in ids)
""",
    ),
    hints=(
        "First freeze everything: then it does not matter what trained before.",
        "module.requires_grad_(True) reaches every parameter inside a module. Mind the underscore at the end.",
        "The last `count` blocks are model.model.layers[-count:]. Don't forget model.model.norm.",
    ),
    remark="Below the first block that trains, no gradient has to be computed and no activation kept.",
)
