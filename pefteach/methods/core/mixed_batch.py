"""Serve every row of a batch with an adapter of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from pefteach.methods.core.adapter import find_adapter
from pefteach.methods.core.attach import adapters_off
from pefteach.methods.core.parts_adapter import PartsAdapter
from pefteach.methods.core.wrapping import AdaptedModule, Part
from pefteach.model.modules import base_module, is_linear


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
        if not isinstance(adapter, PartsAdapter) or not all(is_linear(base_module(model, p)) for p in adapter.parts):
            raise ValueError(f"adapter {name!r} cannot be chosen per row: it changes more than linear layers")
    # Inside a mixed batch every module has a RowByRow in place of its parts. Mixed batches may be nested.
    before = {module: module.active_parts for module in model.modules() if isinstance(module, AdaptedModule)}
    try:
        with adapters_off(model):  # a TensorAdapter puts the base's values back, and a merged adapter is unmerged
            for module in before:
                own = {name: module.parts[name] for name in chosen if name in module.parts}
                module.active_parts = (RowByRow(own, names),) if own else ()
            yield
    finally:
        for module, parts in before.items():
            module.active_parts = parts


class RowByRow(Part):
    """Sends every row of a batch through the part of its own adapter, or through none.

    Args:
        parts: by the adapter's name.
        rows: the name of every row's adapter; one without a part here, or None, is the bare base.
    """

    def __init__(self, parts: Mapping[str, Part], rows: Sequence[str | None]):
        super().__init__()
        self.parts, self.rows = parts, tuple(rows)  # a plain dict: the parts belong to the module around this one

    def forward(self, call: Callable, x: Tensor) -> Tensor:  # (B, ..., in) -> (B, ..., out)
        if len(x) != len(self.rows):
            raise ValueError(f"the batch has {len(x)} rows, but mixed_batch was given {len(self.rows)} names")
        y = call(x)  # the frozen layer sees all rows at once
        for name, part in self.parts.items():
            places = torch.tensor([i for i, row in enumerate(self.rows) if row == name], device=x.device)
            own_x, own_y = x[places], y[places]
            # Most parts call the layer on the input they were given, and that has been computed.
            computed = lambda z, own_x=own_x, own_y=own_y: own_y if z is own_x else call(z)
            y[places] = part(computed, own_x)
        return y
