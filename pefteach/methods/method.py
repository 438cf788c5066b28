"""What all methods share: attach, switch, detach, merge. ``targets.py`` finds the modules they act on.

A **method** is a description (``LoRA(rank=8)``). ``attach(model, method)`` turns it into an **adapter** on that
model. There are two kinds:

* an adapter made of **parts** (:class:`PartsAdapter`). A part wraps the call of one module: it may change what goes in
  and what comes out, and may call the module twice. Parts on linear layers make LoRA and (IA)³, on the halves of a
  block bottleneck adapters, on attention modules LLaMA-Adapter. A part on the model itself is a soft prompt or a
  prefix: the call it wraps has ``inputs_embeds``, ``attention_mask`` and ``past_key_values`` to lengthen;
* a choice of the base's own tensors, trained in place (:class:`TensorAdapter`): full fine-tuning, BitFit.

``fit`` calls :meth:`Adapter.after_step` after every step, and adds :meth:`Adapter.penalty` to the loss. AdaLoRA, whose
ranks change while training, needs both.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Part(nn.Module):
    """What one adapter adds to one module of the model.

    ``combines`` is for parts whose order on a module does not matter: parts of two adapters may be active together on
    one module if they say the same word, such as "adds" or "scales". With None a part shares its module with no other.
    """

    combines: ClassVar[str | None] = None

    def forward(self, call, *args, **kwargs):
        """Stand in for ``call(*args, **kwargs)``, where ``call`` is the module, or the part beneath this one."""
        raise NotImplementedError

    def merged_weight(self, layer: Any) -> Tensor:
        """The weight that makes ``layer`` alone behave like layer and part together, in the layer's own layout."""
        raise ValueError(f"{type(self).__name__} is not linear in the weight, so it cannot be merged into it")

    def merged_bias(self, layer: Any) -> Tensor:
        """The bias that goes with it: the layer's own, unless the part acts on the bias as well."""
        return layer.bias


class Adapted(nn.Module):
    """Stands where a module of the base stood, and leads its call through the active parts.

    ``base_layer`` is peft's name for that module; around the model itself it is the model's own ``forward``.
    """

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer, self.parts, self.active = base_layer, nn.ModuleDict(), ()
        self.rows: tuple[str | None, ...] | None = None  # an adapter per row, see mixed_batch

    def forward(self, *args, **kwargs):
        if self.rows is not None:
            return self._row_by_row(self.rows, *args, **kwargs)
        return self._through(self.active)(*args, **kwargs)

    def _through(self, names: Sequence[str]) -> Callable:
        call = self.base_layer
        for name in names:
            call = _around(self.parts[name], call)
        return call

    def _row_by_row(self, rows: tuple[str | None, ...], x: Tensor) -> Tensor:
        """Every row of x (B, ...) through the part of its own adapter, or through none."""
        if len(x) != len(rows):
            raise ValueError(f"the batch has {len(x)} rows, but mixed_batch was given {len(rows)} names")
        y = self.base_layer(x)  # the frozen layer sees all rows at once
        for name in dict.fromkeys(row for row in rows if row in self.parts):
            places = torch.tensor([i for i, row in enumerate(rows) if row == name], device=x.device)
            own_x, own_y = x[places], y[places]
            # Most parts call the layer on the input they were given, and that has been computed.
            call = lambda z, own_x=own_x, own_y=own_y: own_y if z is own_x else self.base_layer(z)
            y[places] = self.parts[name](call, own_x)
        return y

    def __getattr__(self, name: str) -> Any:  # q_proj.weight, q_proj.in_features … are still the layer's
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)


def _around(part: Part, call: Callable) -> Callable:
    return lambda *args, **kwargs: part(call, *args, **kwargs)


class Method:
    """The description of a technique: a dataclass of its settings. Subclasses say how to build the adapter."""

    peft_type: ClassVar[str | None] = None  # peft's name for it, None where peft does not have it
    formula: ClassVar[str] = ""  # how many parameters it trains, in the paper's symbols
    starts_as_base: ClassVar[bool] = True  # whether a fresh adapter leaves the model's output as it was
    can_merge: ClassVar[bool] = False  # whether it can be written into the base's weights
    decays: ClassVar[bool] = True  # whether weight decay may pull its matrices towards zero

    def trained_parameters(self, model: nn.Module) -> int:
        """The value of ``formula`` on this model, from its shapes alone."""
        raise NotImplementedError

    def extra_tokens(self) -> int:
        """By how many tokens it lengthens the sequence, or the cache."""
        return 0

    def build(self, model: nn.Module, name: str) -> Adapter:
        """Make the adapter without touching the model, or raise a ValueError that says why it cannot apply."""
        raise NotImplementedError

    def to_peft(self) -> dict:
        """Its settings as ``adapter_config.json`` has them; a method that peft lacks says which it is."""
        return {"peft_type": None, "method": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]

    @classmethod
    def reads(cls, config: dict) -> bool:
        """Whether an ``adapter_config.json`` describes this method."""
        return (config.get("peft_type") or config.get("method", "")) in (cls.peft_type, cls.__name__)

    @classmethod
    def from_peft(cls, config: dict) -> Method:
        """The method that an ``adapter_config.json`` describes."""
        return cls(**{field.name: config[field.name] for field in fields(cls)})  # type: ignore[arg-type]


class Adapter:
    """A method attached to a model under a name."""

    def __init__(self, method: Method, model: nn.Module, name: str):
        self.method, self.model, self.name, self.active, self.merged = method, model, name, False, False

    def tensors(self) -> dict[str, nn.Parameter]:
        """What is trained, under peft's names."""
        raise NotImplementedError

    def to_peft(self) -> dict:
        """Its ``adapter_config.json``; a method whose shape changes while training says here what it has become."""
        return self.method.to_peft()

    def stored(self) -> Mapping[str, Tensor]:
        """What goes into a file, under peft's names."""
        return self.tensors()

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over stored values.

        Raises:
            ValueError: names or shapes other than this adapter's; nothing has changed then.
        """
        wanted = self.stored()
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

    def state(self) -> Mapping[str, Tensor]:
        """What it remembers from step to step besides ``tensors()``; a checkpoint of the training keeps it."""
        return {}

    def clash(self, other: Adapter) -> str | None:
        """The place where this adapter and another, active together, would depend on their order; None if nowhere."""
        return None

    def insert(self) -> None:
        """Put it into the model, not active yet."""

    def remove(self) -> None:
        """Take it out again."""

    def switch(self, on: bool) -> None:
        """Let it act, or not."""
        self.active = on
        for parameter in self.tensors().values():
            parameter.requires_grad_(on)

    def penalty(self) -> Tensor | float:
        """A term for the training loss."""
        return 0.0

    def after_step(self, step: int, steps: int) -> None:
        """Called after optimiser step number ``step`` of ``steps``, while the gradients are still there."""

    def merge(self) -> None:
        """Write the adapter's effect into the base's weights, so that it costs nothing to run."""
        raise ValueError(f"{type(self.method).__name__} changes no weight matrix, so there is nothing to merge")

    def unmerge(self) -> None:
        """Bring the base's own weights back, bit for bit."""
        raise ValueError(f"adapter {self.name!r} is not merged")


class PartsAdapter(Adapter):
    """An adapter made of parts, one per module path."""

    def __init__(self, method: Method, model: nn.Module, name: str, parts: Mapping[str, Part]):
        super().__init__(method, model, name)
        self.parts: Mapping[str, Part] = parts
        self._originals: dict[nn.Parameter, Tensor] = {}
        for path, part in parts.items():
            tensors = itertools.chain(plain_module(model, path).parameters(), model.parameters())  # a dropout has none
            part.to(next(tensors).device).train(model.training)

    def tensors(self) -> dict[str, nn.Parameter]:
        return {
            f"base_model.model.{path}.{key}": parameter
            for path, part in self.parts.items()
            for key, parameter in part.named_parameters()
        }

    def state(self) -> dict[str, Tensor]:
        return {f"{path}.{key}": b for path, part in self.parts.items() for key, b in part.named_buffers()}

    def clash(self, other: Adapter) -> str | None:
        if not isinstance(other, PartsAdapter):
            return None
        for path, part in self.parts.items():
            if path in other.parts and (part.combines is None or part.combines != other.parts[path].combines):
                return path or "the whole model"
        return None

    def insert(self) -> None:
        for path, part in self.parts.items():
            _adapted(self.model, path).parts[self.name] = part

    def remove(self) -> None:
        if self.merged:
            self.unmerge()
        for path in self.parts:
            adapted = _adapted(self.model, path)
            del adapted.parts[self.name]
            if not adapted.parts:
                _restore(self.model, path)

    def switch(self, on: bool) -> None:
        if self.merged:
            self.unmerge()
        super().switch(on)
        self._show(on)

    def _show(self, on: bool) -> None:
        for path in self.parts:
            adapted = _adapted(self.model, path)
            others = tuple(n for n in adapted.active if n != self.name)
            adapted.active = (*others, self.name) if on else others

    @torch.no_grad()
    def merge(self) -> None:
        if not self.method.can_merge:
            super().merge()
        if not self.active:
            raise ValueError(f"adapter {self.name!r} is switched off: activate it before merging")
        if any(a.merged for a in adapters(self.model).values()):
            raise ValueError("an adapter is merged already: unmerge it first, or its effect would count twice")
        new: dict[nn.Parameter, Tensor] = {}
        places = Counter(id(p) for _, p in self.model.named_parameters(remove_duplicate=False))
        for path, part in self.parts.items():
            layer = plain_module(self.model, path)
            if places[id(layer.weight)] > 1:
                raise ValueError(f"{path} shares its weight with another module, which merging would change too")
            if not isinstance(layer.weight, nn.Parameter) or not layer.weight.is_floating_point():
                raise ValueError(f"{path} is in few bits: call pefteach.quant.dequantise(model) first, then merge")
            weight = part.merged_weight(layer)  # a part that cannot be merged says so here
            values = {layer.weight: weight}
            if layer.bias is not None:
                values[layer.bias] = part.merged_bias(layer)
            if not all(value.isfinite().all() for value in values.values()):
                raise ValueError(f"merging would write values that are not finite into {path}")
            new |= values
        for parameter, value in new.items():
            self._originals[parameter] = parameter.detach().clone()  # computing it back would not be bit-exact
            parameter.copy_(value)
        self.merged = True
        self._show(False)

    @torch.no_grad()
    def unmerge(self) -> None:
        if not self.merged:
            super().unmerge()
        for parameter, value in self._originals.items():
            parameter.copy_(value)
        self._originals, self.merged = {}, False
        self._show(self.active)


class TensorAdapter(Adapter):
    """An adapter that trains tensors of the base in place, and remembers what they were."""

    def __init__(self, method: Method, model: nn.Module, name: str, chosen: dict[str, nn.Parameter]):
        super().__init__(method, model, name)
        self.chosen = chosen
        # Values that are not in the model at present: the trained ones while switched off, else the base's.
        self._stored = {key: p.detach().clone() for key, p in chosen.items()}

    def tensors(self) -> dict[str, nn.Parameter]:
        return self.chosen

    def stored(self) -> Mapping[str, Tensor]:
        return self.chosen if self.active else self._stored

    def clash(self, other: Adapter) -> str | None:
        if not isinstance(other, TensorAdapter):
            return None
        return next((key for key, p in self.chosen.items() if any(p is q for q in other.chosen.values())), None)

    @torch.no_grad()
    def switch(self, on: bool) -> None:
        if on != self.active:
            for key, p in self.chosen.items():
                now = p.detach().clone()
                p.copy_(self._stored[key])
                self._stored[key] = now
        super().switch(on)

    def remove(self) -> None:
        self.switch(False)


@dataclass
class _Registry:
    adapters: dict[str, Adapter]
    requires_grad: dict[nn.Parameter, bool]


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """The adapters on this model, by name."""
    registry = model.__dict__.get("_pefteach")
    return registry.adapters if registry else {}


def find_adapter(model: nn.Module, name: str) -> Adapter:
    """The adapter of that name.

    Raises:
        ValueError: none has it.
    """
    known = adapters(model)
    if name not in known:
        raise ValueError(f"no adapter named {name!r} here; attached are: {', '.join(known) or 'none'}")
    return known[name]


def attach(
    model: nn.Module, method: Method, name: str = "default", fill: Callable[[Adapter], None] | None = None
) -> Adapter:
    """Attach a method: the base is frozen, the adapter's tensors train, and it alone is active.

    Args:
        fill: sets the adapter's tensors before it enters the model; loading from a file does that.

    Raises:
        ValueError: the name is taken, or the method cannot apply; the model then works as before.
    """
    if name in adapters(model):
        raise ValueError(f"an adapter named {name!r} is attached already: detach it first or choose another name")
    if not name or "." in name:
        raise ValueError(f"an adapter needs a name without dots, not {name!r}")
    active = [n for n, adapter in adapters(model).items() if adapter.active]
    activate(model)  # what is built now starts from the bare base
    try:
        adapter = method.build(model, name)
        if fill is not None:
            fill(adapter)
    except Exception:
        activate(model, *active)
        raise
    if "_pefteach" not in model.__dict__:
        model.__dict__["_pefteach"] = _Registry({}, {p: p.requires_grad for p in model.parameters()})
        model.requires_grad_(False)
    adapter.insert()
    adapters(model)[name] = adapter
    activate(model, name)
    return adapter


def activate(model: nn.Module, *names: str) -> None:
    """Let these adapters act and train, and no others; with no names the bare base acts.

    Raises:
        ValueError: an unknown name, or adapters that cannot act together; nothing has changed then.
    """
    known = adapters(model)
    for name in names:
        find_adapter(model, name)
    for one, two in itertools.combinations(dict.fromkeys(names), 2):
        if place := known[one].clash(known[two]):
            raise ValueError(
                f"adapters {one!r} and {two!r} both change {place}, and the result would depend on their order: "
                "activate one of them"
            )
    for name, adapter in known.items():  # off first: in-place adapters hand the base's values back
        if name not in names:
            adapter.switch(False)
    for name, adapter in known.items():  # in the order of attachment: the same choice gives the same bits
        if name in names:
            adapter.switch(True)


def detach(model: nn.Module, name: str = "default") -> None:
    """Remove an adapter; the base is what it was before, bit for bit.

    Raises:
        ValueError: no such adapter.
    """
    known = adapters(model)
    find_adapter(model, name).switch(False)
    known.pop(name).remove()
    if not known:
        for parameter, flag in model.__dict__.pop("_pefteach").requires_grad.items():
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def mixed_batch(model: nn.Module, names: Sequence[str | None]) -> Iterator[None]:
    """Serve every row of a batch with an adapter of its own: ``with mixed_batch(model, ["pirate", None, "poet"]): ...``

    Args:
        names: one adapter's name per row, None for the bare base. Which adapters are active does not matter inside.

    Raises:
        ValueError: an unknown name, an adapter that acts on more than linear layers, or, when the model is called,
            a batch with another number of rows.
    """
    chosen = {name: find_adapter(model, name) for name in names if name is not None}
    for name, adapter in chosen.items():
        if not isinstance(adapter, PartsAdapter) or not all(is_linear(plain_module(model, p)) for p in adapter.parts):
            raise ValueError(
                f"adapter {name!r} does not act on linear layers alone, so rows cannot take it or leave it"
            )
    active = [name for name, adapter in adapters(model).items() if adapter.active]
    merged = [adapter for adapter in adapters(model).values() if adapter.merged]
    activate(model)  # in-place adapters hand the base's values back, and merged ones come apart
    before = {module: module.rows for module in model.modules() if isinstance(module, Adapted)}
    try:
        for module in before:
            module.rows = tuple(names) if module.parts.keys() & chosen.keys() else None
        yield
    finally:
        for module, rows in before.items():
            module.rows = rows
        activate(model, *active)
        for adapter in merged:
            adapter.merge()


def check_dropout(dropout: float) -> None:
    """Refuse, with a ValueError, a dropout that is not a share below 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by one matrix: ``nn.Linear``, or GPT-2's ``Conv1D``."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def plain_module(model: nn.Module, path: str) -> Any:
    """The base's own module at a path, whether or not adapters wrap it."""
    module = model.get_submodule(path)
    return module.base_layer if isinstance(module, Adapted) else module


def _adapted(model: Any, path: str) -> Adapted:
    """The :class:`Adapted` at a path, put there if need be. The empty path is the model itself."""
    if path == "":
        if "adapted_call" not in model._modules:
            # The caller holds this very object, so it cannot be replaced: its forward is led through instead. By a
            # bound method, which a copy of the model binds to itself.
            model.adapted_call = Adapted(model.forward)
            led = functools.wraps(type(model).forward)(lambda self, *args, **kwargs: self.adapted_call(*args, **kwargs))
            model.forward = types.MethodType(led, model)
        return model.adapted_call
    module = model.get_submodule(path)
    if not isinstance(module, Adapted):
        module = Adapted(module)
        parent, _, name = path.rpartition(".")
        setattr(plain_module(model, parent), name, module)  # the parent may be wrapped too
    return module


def _restore(model: nn.Module, path: str) -> None:
    if path == "":
        del model.forward, model.adapted_call
        return
    parent, _, name = path.rpartition(".")
    setattr(plain_module(model, parent), name, model.get_submodule(path).base_layer)
