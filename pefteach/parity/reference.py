"""The same method, attached by the library that is its reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pefteach.methods import Adapter


@dataclass
class Reference:
    """A reference library's model, ready to be compared.

    Attributes:
        model: in evaluation mode.
        peers: its trained tensors under the names of our ``Adapter.tensors()``.
        logits: its logits for a batch, at the positions of the batch's own tokens (B, T, V).
        merged: merges it and gives the tensors of the bare model.
        penalty: what it adds to the loss.
        after_step: what it does after an optimiser step, given its number.
    """

    model: nn.Module
    peers: dict[str, nn.Parameter]
    logits: Callable[[dict], Tensor]
    merged: Callable[[], dict[str, Tensor]] = dict
    penalty: Callable[[], Tensor | float] = lambda: 0.0
    after_step: Callable[[int], object] = lambda step: None


def in_peft(model: nn.Module, adapter: Adapter) -> Reference:
    """``adapter``'s method on a bare ``model``, by peft, from the configuration that we would save."""
    import peft

    settings = {key: value for key, value in adapter.to_peft().items() if key != "peft_type"}
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[adapter.method.peft_type](**settings)
    if config.is_prompt_learning:
        config.task_type = "CAUSAL_LM"  # without a task peft lets the prompt out, without a word
    theirs: Any = peft.get_peft_model(model, config).eval()
    peers = {name.replace(".default", ""): p for name, p in theirs.named_parameters() if p.requires_grad}

    def logits(batch: dict) -> Tensor:
        return theirs(**batch).logits[:, -batch["input_ids"].shape[1] :]  # peft leaves the prompt's own logits in

    return Reference(theirs, peers, logits, lambda: theirs.merge_and_unload().state_dict())


REFERENCES: dict[str, Callable[[nn.Module, Adapter], Reference]] = {"peft": in_peft}
