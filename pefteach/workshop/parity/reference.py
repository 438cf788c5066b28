"""Attach the same method with the library that is its reference."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, nn

from pefteach.interop.adapters_files import library_config, library_names
from pefteach.methods import Adapter
from pefteach.methods.core.bottleneck import Bottleneck


@dataclass
class Reference:
    """A reference library's model, ready to be compared.

    Attributes:
        model: in evaluation mode.
        peers: its trained tensors under the names of our ``Adapter.trained_tensors()``.
        logits: its logits for a batch, at the positions of the batch's own tokens (B, T, V).
        merged: merges it and returns the tensors of the bare model.
        penalty: what it adds to the loss.
        after_step: what it does after an optimiser step, given its number and how many there will be.
    """

    model: nn.Module
    peers: dict[str, nn.Parameter]
    logits: Callable[[dict], Tensor]
    merged: Callable[[], dict[str, Tensor]] = dict
    penalty: Callable[[], Tensor | float] = lambda: 0.0
    after_step: Callable[[int, int], object] = lambda step, steps: None

    @torch.no_grad()
    def take_over(self, adapter: Adapter) -> None:
        """Set its trained tensors to the values of ours."""
        for key, tensor in adapter.trained_tensors().items():
            self.peers[key].copy_(tensor)


def in_peft(model: Any, adapter: Adapter) -> Reference:
    """``adapter``'s method on a bare ``model``, by peft, from the configuration that we would save."""
    import peft

    method: Any = adapter.method
    settings = {key: value for key, value in adapter.to_peft().items() if key != "peft_type"}
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[method.peft_type](**settings)
    if config.is_prompt_learning and config.task_type is None:
        config.task_type = "CAUSAL_LM"  # without a task type peft silently drops the prompt
    below_head = config.task_type == "FEATURE_EXTRACTION"  # BERT takes a prefix there
    theirs: Any = peft.get_peft_model(model.base_model if below_head else model, config).eval()
    for module in theirs.modules():
        if type(module).__name__ == "AdaptedAttention":  # peft's LLaMA-Adapter adds o_proj's bias a second time
            module.register_forward_hook(lambda module, _, out: (out[0] - module.model.o_proj.bias, *out[1:]))
    saved = lambda name: name.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector")
    peers = {saved(name): p for name, p in theirs.named_parameters() if p.requires_grad}

    def logits(batch: dict) -> Tensor:
        if below_head:
            return model.cls(theirs(**batch).last_hidden_state)
        return theirs(**batch).logits[:, -batch["input_ids"].shape[1] :]  # peft keeps the prompt's own logits

    reference = Reference(theirs, peers, logits, lambda: theirs.merge_and_unload().state_dict())
    if isinstance(config, peft.AdaLoraConfig):
        reference.penalty = lambda: _adalora_penalty(theirs.base_model)
        reference.after_step = lambda step, steps: _adalora_step(theirs.base_model, step, method.to_peft(steps))
    return reference


def _adalora_penalty(tuner: Any) -> Tensor:
    """peft adds its penalty to the loss within forward; a model that answers with a loss of 0 shows it alone."""
    with mock.patch.object(tuner.model, "forward", lambda: SimpleNamespace(loss=torch.zeros(()))):
        return tuner().loss


def _adalora_step(tuner: Any, step: int, plan: dict) -> None:
    for key in ("tinit", "tfinal", "total_step"):
        setattr(tuner.peft_config["default"], key, plan[key])
    tuner.update_and_allocate(step)


def in_adapters(model: nn.Module, adapter: Adapter) -> Reference:
    """``adapter``'s bottlenecks on a bare Hugging Face ``model``, by adapters, from the settings that we would save."""
    import adapters

    logging.getLogger("adapters").setLevel(logging.ERROR)  # train_adapter warns that nothing is active yet
    theirs, method = cast(Any, model), cast(Bottleneck, adapter.method)
    adapters.init(theirs)
    theirs.add_adapter("default", adapters.BnConfig.from_dict(library_config(method, theirs)))
    theirs.train_adapter("default")
    theirs.eval()  # train_adapter leaves it in training mode
    ours = {name: key for key, name in library_names(adapter, "default").items()}
    found = {name: p for name, p in theirs.named_parameters() if ".default." in name and p.requires_grad}
    peers = {ours.get(name, name): p for name, p in found.items()}
    return Reference(theirs, peers, lambda batch: theirs(**batch).logits)


REFERENCES: dict[str, Callable[[nn.Module, Adapter], Reference]] = {"adapters": in_adapters, "peft": in_peft}
