"""An adapter made of new, trained modules around modules of the base."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pefteach.methods.core.adapter import Adapter, Method, attached
from pefteach.methods.core.merging import merged_values
from pefteach.methods.core.wrapping import Part, adapted_module, unwrap, wrap
from pefteach.model.modules import base_module


class PartsAdapter(Adapter):
    """An adapter made of parts, by the paths of the modules that they wrap."""

    def __init__(self, method: Method, model: nn.Module, name: str, parts: Mapping[str, Part]):
        super().__init__(method, model, name)
        self.parts: Mapping[str, Part] = parts
        self._originals: dict[nn.Parameter, Tensor] = {}
        for path, part in parts.items():
            # nn.Dropout, say, has no parameters: then the model's device.
            tensors = itertools.chain(base_module(model, path).parameters(), model.parameters())
            part.to(next(tensors).device).train(model.training)

    def trained_tensors(self) -> dict[str, nn.Parameter]:
        return {
            f"base_model.model.{path}.{key}": parameter
            for path, part in self.parts.items()
            for key, parameter in part.named_parameters()
            if key not in part.frozen
        }

    def training_state(self) -> dict[str, Tensor]:
        return {f"{path}.{key}": b for path, part in self.parts.items() for key, b in part.named_buffers()}

    def conflict_with(self, other: Adapter) -> str | None:
        if not isinstance(other, PartsAdapter):
            return None
        for path, part in self.parts.items():
            if path in other.parts and (part.composes_as is None or part.composes_as != other.parts[path].composes_as):
                return path or "the whole model"
        return None

    def insert(self) -> None:
        for path, part in self.parts.items():
            wrap(self.model, path).parts[self.name] = part

    def remove(self) -> None:
        for path in self.parts:
            adapted = adapted_module(self.model, path)
            del adapted.parts[self.name]
            if not adapted.parts:
                unwrap(self.model, path)

    def switch(self, on: bool) -> None:
        if self.merged:
            self.unmerge()
        super().switch(on)
        self._set_active(on)

    def _set_active(self, on: bool) -> None:
        for path, part in self.parts.items():
            adapted = adapted_module(self.model, path)
            others = tuple(other for other in adapted.active_parts if other is not part)
            adapted.active_parts = (*others, part) if on else others

    @torch.no_grad()
    def merge(self) -> None:
        if not self.method.can_merge:
            super().merge()  # refuses
        if not self.active:
            raise ValueError(f"adapter {self.name!r} is switched off: activate it before merging")
        if any(a.merged for a in attached(self.model).values()):
            raise ValueError("an adapter is merged already: unmerge it first, as two could not be undone in any order")
        layers = {path: base_module(self.model, path) for path in self.parts}
        new = merged_values(self.model, layers, self.parts)
        for parameter, value in new.items():
            self._originals[parameter] = parameter.detach().clone()  # taking the change off again would not be exact
            parameter.copy_(value)
        self.merged = True
        self._set_active(False)

    @torch.no_grad()
    def unmerge(self) -> None:
        if not self.merged:
            super().unmerge()  # refuses
        for parameter, value in self._originals.items():
            parameter.copy_(value)
        self._originals, self.merged = {}, False
        self._set_active(self.active)
