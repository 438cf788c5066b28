"""Let a model continue a text, token by token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pefteach.model.modes import eval_mode


@torch.no_grad()
def generate(
    model: nn.Module,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    attention_mask: Tensor | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    eos_token_id: int | None = None,
    use_cache: bool = True,
    seed: int | None = None,
) -> Tensor:
    """Continue ``input_ids`` (B, T) token by token; works on this decoder and on Hugging Face's.

    Rows of unequal length are padded on the left, with ``attention_mask`` 0 there. Temperature 0 takes the
    most likely token; otherwise tokens are drawn, among the ``top_k`` most likely if given. A row that has
    produced ``eos_token_id`` repeats it until all rows are done.

    Returns:
        Prompt and continuation (B, up to T + max_new_tokens).
    """
    rng = torch.Generator(input_ids.device).manual_seed(seed) if seed is not None else None
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    ids, cache, done = input_ids, None, torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
    with eval_mode(model):
        for _ in range(max_new_tokens):
            new = ids if cache is None else ids[:, -1:]
            output = model(new, attention_mask=mask, past_key_values=cache, use_cache=use_cache)
            cache = output.past_key_values if use_cache else None
            scores = output.logits[:, -1].float()  # (B, V)
            if temperature == 0:
                token = scores.argmax(-1)
            else:
                if top_k is not None:
                    scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
                token = torch.multinomial((scores / temperature).softmax(-1), 1, generator=rng)[:, 0]
            if eos_token_id is not None:
                token = token.masked_fill(done, eos_token_id)
                done = done | (token == eos_token_id)
            ids = torch.cat([ids, token[:, None]], 1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            if done.all():
                break
    return ids
