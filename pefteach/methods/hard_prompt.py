"""Hard prompt search: finds tokens to put in front of the text, and trains nothing.

A hard prompt is n tokens t. Tokens cannot follow a gradient, only be exchanged. Both searches visit the places of the
prompt in turn, try other tokens there with real forwards, and keep the best if it lowers the loss:

* **greedy** coordinate search tries tokens drawn at random, or every token of the vocabulary;
* **gradient**-guided search tries those that a linear model of the loss ranks best (Ebrahimi et al. 2018, "HotFlip";
  Shin et al. 2020, "AutoPrompt"). With the gradient g (n, D) of the loss in the prompt's embeddings and the token
  embeddings E (V, D), putting token v at place i changes the loss by about

      (E[v] - E[t_i]) · g_i,    for all v at once: E g_i  (V,)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pefteach.corpus.batches import IGNORE
from pefteach.model.loss import next_token_loss
from pefteach.model.modes import eval_mode


@dataclass(frozen=True)
class HardPrompt:
    """The result of a search.

    Attributes:
        ids: the tokens of the prompt; ``tokenizer.decode(prompt.ids)`` is its text.
        loss: the loss with this prompt, on the batch of the search.
        history: one row per step: the place visited, the loss kept after it, the forwards so far.
    """

    ids: list[int]
    loss: float
    history: list[dict]


def with_prompt(batch: Mapping[str, Tensor], ids: Tensor, skip: int = 0) -> dict[str, Tensor]:
    """Put the tokens ``ids`` (n,) into every row of a batch, after its first ``skip`` tokens: (B, T) -> (B, n + T).

    With ``skip=1`` a ``<bos>`` stays in front, if padding is on the right.
    """
    new = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.full_like(ids, IGNORE)}
    longer = {}
    for key, rows in batch.items():
        inserted = new[key].to(rows).expand(len(rows), -1)
        longer[key] = torch.cat([rows[:, :skip], inserted, rows[:, skip:]], 1)
    return longer


def search(
    model: Any,
    batch: Mapping[str, Tensor],
    start: Sequence[int],
    *,
    steps: int,
    by: str = "gradient",
    candidates: int | None = 16,
    allowed: Sequence[int] | None = None,
    skip: int = 0,
    seed: int = 0,
) -> HardPrompt:
    """Look for the tokens that lower the model's loss on a batch. The result is never worse than the start.

    Args:
        batch: ``input_ids``, ``attention_mask`` and ``labels`` (B, T), -100 where nothing counts.
        start: the token ids to begin with; n is their number.
        steps: how many places to visit.
        by: "gradient" or "greedy".
        candidates: how many tokens to try at each; None for all of them.
        allowed: the ids that may be used, to keep special tokens out; all by default.
        skip: how many tokens of each row stay in front of the prompt.
        seed: for the order of the places and for the tokens that "greedy" draws.

    Raises:
        ValueError: settings out of range.
    """
    device, table = batch["input_ids"].device, model.get_input_embeddings().weight.detach()
    usable = torch.tensor(range(len(table)) if allowed is None else sorted(set(allowed)), device=device)
    ids = torch.tensor(list(start), dtype=torch.long, device=device)
    if by not in ("gradient", "greedy"):
        raise ValueError(f"by must be 'gradient' or 'greedy', not {by!r}")
    for name, tokens in (("start", ids), ("allowed", usable)):
        if not len(tokens) or tokens.min() < 0 or tokens.max() >= len(table):
            raise ValueError(f"{name} must be one or more token ids from 0 to {len(table) - 1}, not {tokens.tolist()}")
    count = len(usable) if candidates is None else min(candidates, len(usable))
    if count < 1 or steps < 0:
        raise ValueError(f"candidates must be at least 1 and steps at least 0, not {candidates} and {steps}")

    rng = torch.Generator().manual_seed(seed)
    history: list[dict] = []
    order: list[int] = []
    with eval_mode(model):
        best, forwards = _loss(model, batch, ids, skip), 1
        for step in range(steps):
            order = order or torch.randperm(len(ids), generator=rng).tolist()
            place = order.pop()
            if by == "greedy":
                tried = usable[torch.randperm(len(usable), generator=rng)[:count].to(device)]
            else:
                change = table[usable].float() @ _gradient(model, batch, ids, skip)[place]  # (V,), less is better
                tried, forwards = usable[change.topk(count, largest=False).indices], forwards + 1
            for token in tried:
                other = ids.clone()
                other[place] = token
                loss, forwards = _loss(model, batch, other, skip), forwards + 1
                if loss < best:
                    best, ids = loss, other
            history.append({"step": step, "place": place, "loss": best, "forwards": forwards})
    return HardPrompt(ids.tolist(), best, history)


@torch.no_grad()
def _loss(model: Any, batch: Mapping[str, Tensor], ids: Tensor, skip: int) -> float:
    longer = with_prompt(batch, ids, skip)
    labels = longer.pop("labels")
    return next_token_loss(model(**longer).logits, labels).item()


def _gradient(model: Any, batch: Mapping[str, Tensor], ids: Tensor, skip: int) -> Tensor:
    """The gradient of the loss in the embeddings of the prompt's tokens, summed over the rows (n, D)."""
    longer = with_prompt(batch, ids, skip)
    labels, embed = longer.pop("labels"), model.get_input_embeddings()
    with torch.enable_grad():
        text = embed(longer.pop("input_ids")).detach().requires_grad_()  # (B, n + T, D)
        loss = next_token_loss(model(inputs_embeds=text, **longer).logits, labels)
        (gradient,) = torch.autograd.grad(loss, text)
    return gradient[:, skip : skip + len(ids)].sum(0).float()
