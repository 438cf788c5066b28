"""A method is a description, such as ``LoRA(rank=8)``; an adapter is that method on one model, under a name.

``attach`` (in ``attach.py``) turns the one into the other. There are two kinds of adapter: a ``PartsAdapter`` puts new,
trained modules around modules of the base, and a ``TensorAdapter`` trains tensors that the base already has.

``fit`` calls :meth:`Adapter.after_step` after every step, and adds :meth:`Adapter.penalty` to the loss. AdaLoRA, whose
ranks change while training, needs both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor, nn

from pefteach.model.modules import ADAPTERS


class Method:
    """The description of a technique: a dataclass of its settings. Subclasses say how to build the adapter."""

    formula: ClassVar[str] = ""  # how many parameters it trains, in the paper's symbols
    starts_as_base: ClassVar[bool] = True  # whether a fresh adapter leaves the model's output as it was
    can_merge: ClassVar[bool] = False  # whether it can be written into the base's weights
    allows_weight_decay: ClassVar[bool] = True  # whether weight decay may pull its matrices towards zero

    peft_type: ClassVar[str | None] = None  # peft's name for the method, None where peft does not have it
    peft_names: ClassVar[dict[str, str]] = {}  # our settings: peft's
    refused: ClassVar[tuple[str, ...]] = ()  # peft's settings for it that are not implemented here

    def trained_parameters(self, model: nn.Module) -> int:
        """The value of ``formula`` on this model, from its shapes alone."""
        raise NotImplementedError

    def extra_tokens(self) -> int:
        """By how many tokens it lengthens the sequence, or the cache."""
        return 0

    def build(self, model: nn.Module, name: str) -> Adapter:
        """Make the adapter without touching the model.

        Raises:
            ValueError: the method cannot apply to this model, or not with these settings.
        """
        raise NotImplementedError

    def to_peft(self) -> dict:
        """The settings as ``adapter_config.json`` has them; for a method that peft lacks, with our name for it."""
        settings = {self.peft_names.get(name, name): value for name, value in asdict(self).items()}  # type: ignore
        which = {"peft_type": self.peft_type} if self.peft_type else {"peft_type": None, "method": type(self).__name__}
        return which | {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}

    @classmethod
    def reads(cls, config: dict) -> bool:
        """Whether an ``adapter_config.json`` describes this method."""
        return (config.get("peft_type") or config.get("method", "")) in (cls.peft_type, cls.__name__)

    @classmethod
    def from_peft(cls, config: dict) -> Method:
        """The method that an ``adapter_config.json`` describes.

        Raises:
            ValueError: the file uses a setting that is not implemented here, or leaves one out.
        """
        cls.refuse_settings(config)
        names = {field.name: cls.peft_names.get(field.name, field.name) for field in fields(cls)}  # type: ignore
        if missing := [name for name in names.values() if name not in config]:
            raise ValueError(f"this file's {cls.__name__} lacks {', '.join(missing)}")
        return cls(**{ours: config[theirs] for ours, theirs in names.items()})

    @classmethod
    def refuse_settings(cls, config: dict) -> None:
        """Raise a ValueError if the file makes use of a setting that is not implemented here."""
        for name in cls.refused:
            if config.get(name):
                raise ValueError(
                    f"this file's {cls.__name__} has {name} = {config[name]!r}, which is not implemented here"
                )


class Adapter:
    """A method attached to a model under a name.

    ``active`` says whether it acts, by itself or, while it is ``merged``, in the base's weights.
    """

    def __init__(self, method: Method, model: nn.Module, name: str):
        self.method, self.model, self.name, self.active, self.merged = method, model, name, False, False

    def trained_tensors(self) -> dict[str, nn.Parameter]:
        """The trained tensors, under peft's names."""
        raise NotImplementedError

    def to_peft(self) -> dict:
        """Its ``adapter_config.json``; a method whose shape changes while training says here what it has become."""
        return self.method.to_peft()

    def file_tensors(self) -> Mapping[str, Tensor]:
        """The tensors of its file, under peft's names."""
        return self.trained_tensors()

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the tensors to stored values.

        Raises:
            ValueError: names or shapes differ from this adapter's; nothing has changed then.
        """
        wanted = self.file_tensors()
        missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
        if missing or extra:
            raise ValueError(
                f"does not fit this model: missing {missing or 'nothing'}, unexpected {extra or 'nothing'}"
            )
        for key, tensor in tensors.items():
            if tensor.shape != wanted[key].shape:
                here, there = tuple(wanted[key].shape), tuple(tensor.shape)
                raise ValueError(f"is for another model: {key} is {there}, here {here}")
        for key, tensor in tensors.items():
            wanted[key].copy_(tensor)

    def training_state(self) -> Mapping[str, Tensor]:
        """What lasts from step to step besides ``trained_tensors()``; a checkpoint of the training stores it."""
        return {}

    def conflict_with(self, other: Adapter) -> str | None:
        """The place where the order of this adapter and another, both active, would matter; None if nowhere."""
        return None

    def insert(self) -> None:
        """Put what is new into the model, not active yet. Where nothing is new there is nothing to do."""

    def remove(self) -> None:
        """Take it out again."""

    def switch(self, on: bool) -> None:
        """Make it act on the model and train, or stop both."""
        self.active = on
        for parameter in self.trained_tensors().values():
            parameter.requires_grad_(on)

    def penalty(self) -> Tensor | float:
        """A term for the training loss."""
        return 0.0

    def after_step(self, step: int, steps: int) -> None:
        """Do what is due after optimiser step number ``step`` of ``steps``, while the gradients are still there."""

    def merge(self) -> None:
        """Write the adapter's effect into the base's weights, so that it costs nothing to run."""
        raise ValueError(f"{type(self.method).__name__} changes no weight matrix, so there is nothing to merge")

    def unmerge(self) -> None:
        """Restore the base's own weights, bit for bit."""
        raise ValueError(f"adapter {self.name!r} is not merged")


@dataclass
class Registry:
    """A model's record of its adapters.

    Attributes:
        adapters: by name, in the order of attachment.
        required_grad: whether each parameter of the base required gradients before the first was attached.
    """

    adapters: dict[str, Adapter]
    required_grad: dict[nn.Parameter, bool]


def attached(model: nn.Module) -> dict[str, Adapter]:
    """The adapters on this model, by name."""
    registry = model.__dict__.get(ADAPTERS)
    return registry.adapters if registry else {}


def find_adapter(model: nn.Module, name: str) -> Adapter:
    """The adapter of that name.

    Raises:
        ValueError: there is none.
    """
    known = attached(model)
    if name not in known:
        raise ValueError(f"no adapter named {name!r} here; attached are: {', '.join(known) or 'none'}")
    return known[name]


def check_dropout(dropout: float) -> None:
    """Refuse, with a ValueError, a dropout that is not a share below 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
