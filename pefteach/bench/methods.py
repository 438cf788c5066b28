"""One training step of every method: against peft where peft has it, and against the least it could cost.

A step is forward, loss, backward and AdamW, on a Hugging Face Llama with random weights. The least it could cost
is counted in passes of the frozen model. A backward pass has two products where a forward pass has one: the
gradient of a layer's input, which every method needs down to its lowest layer, and the gradient of its weight,
which only full fine-tuning needs everywhere. So the floor is two forward passes, and three for full fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from pefteach.bench.measure import Row, need, row, take_turns
from pefteach.methods import BitFit, FullFineTuning, LastLayers, LoRA, Method, Norms, attach

BATCH, LENGTH, VOCABULARY = 8, 64, 2048
METHODS: dict[str, Method] = {
    "LoRA q, v": LoRA(rank=8, alpha=16),
    "LoRA all linear": LoRA(rank=8, alpha=16, target_modules="all-linear"),
    "last 2 blocks": LastLayers(2),
    "norms": Norms(),
    "BitFit": BitFit(),
    "full fine-tuning": FullFineTuning(),
}
AGAINST_PEFT, AGAINST_FLOOR = 1.00, 1.20


def measure(rounds: int = 40, width: int = 512) -> list[Row]:
    """Milliseconds per step, all arms taking turns step by step."""
    base, ids = llama(width), torch.randint(VOCABULARY, (BATCH, LENGTH))
    arms: dict[str, Callable[[], object]] = {"forward": lambda: _forward(base, ids)}
    for name, method in METHODS.items():
        model = deepcopy(base)
        attach(model, method)
        arms[name] = training_step(model, ids)
        if isinstance(method, LoRA):
            arms[f"peft {name}"] = training_step(in_peft(deepcopy(base), method), ids)
    ms = {name: 1000 * seconds for name, seconds in take_turns(arms, rounds).items()}

    rows = [row(f"{n} against peft", "ms", ms[n], AGAINST_PEFT, ms[f"peft {n}"]) for n in METHODS if f"peft {n}" in ms]
    for name, method in METHODS.items():
        passes = 3 if isinstance(method, FullFineTuning) else 2
        floor = passes * ms["forward"]
        rows.append(row(f"{name} against {passes} forward passes", "ms", ms[name], AGAINST_FLOOR, floor))
    return rows


def llama(width: int) -> nn.Module:
    """Four blocks with biases (BitFit trains them), random weights, in training mode."""
    transformers = need("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=4,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=LENGTH,
        attention_bias=True, mlp_bias=True, use_cache=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).train()


def in_peft(model: nn.Module, method: LoRA) -> nn.Module:
    """The same LoRA, attached by peft."""
    peft = need("peft")
    settings = {key: value for key, value in method.to_peft().items() if key != "peft_type"}
    return peft.get_peft_model(model, peft.LoraConfig(**settings))


def training_step(model: nn.Module, ids: Tensor) -> Callable[[], float]:
    """One optimiser step on ``ids`` (B, T), as a function; it returns the loss before the step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, foreach=True)

    def step() -> float:
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


@torch.no_grad()
def _forward(model: nn.Module, ids: Tensor) -> None:
    model(input_ids=ids)
