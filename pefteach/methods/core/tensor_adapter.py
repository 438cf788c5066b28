"""Train tensors that the base already has, in place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pefteach.methods.core.adapter import Adapter, Method


class TensorAdapter(Adapter):
    """An adapter that trains tensors of the base in place, and keeps a copy of their old values."""

    def __init__(self, method: Method, model: nn.Module, name: str, chosen: dict[str, nn.Parameter]):
        super().__init__(method, model, name)
        self.chosen = chosen
        # The values that are not in the model now: the trained ones while switched off, else the base's.
        self._stored = {key: p.detach().clone() for key, p in chosen.items()}

    def trained_tensors(self) -> dict[str, nn.Parameter]:
        return self.chosen

    def file_tensors(self) -> Mapping[str, Tensor]:
        return self.chosen if self.active else self._stored

    def conflict_with(self, other: Adapter) -> str | None:
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
