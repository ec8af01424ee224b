"""Sampled continuations of many prompts that begin alike, by a local causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ranklens.data.causal_lm import CausalLM


def continuations(
    lm: CausalLM,
    opening: Sequence[int],
    prompts: Sequence[Sequence[int]],
    draws: Sequence[Sequence[float]],
    *,
    temperature: float = 0.7,
    top_k: int = 40,
) -> list[str]:
    """Return how the model goes on behind each prompt, to the end of the line.

    ``opening`` is what all prompts begin with; its keys and values are computed once, and prompts
    go through the model together, filled up on the left. ``draws`` are numbers in [0, 1), for
    each prompt one a token, and as many as tokens at most: the token is the one in whose share of
    the ``top_k`` likeliest ones' probability, at ``temperature``, the number falls. So a
    continuation does not depend on the prompts beside it, but for rounding. Raises NumericalError
    for NaN.
    """
    if not prompts:
        return []
    cache = lm.opened(opening, len(prompts))
    if cache is not None:
        return _together(lm, cache, len(opening), prompts, draws, temperature, top_k)
    # Caches with windows or states: each prompt alone, where nothing has to be filled up.
    return [
        text
        for ids, own in zip(prompts, draws, strict=True)
        for text in _together(lm, None, 0, [[*opening, *ids]], [own], temperature, top_k)
    ]


def _together(
    lm: CausalLM,
    cache: Any,
    held: int,
    prompts: Sequence[Sequence[int]],
    draws: Sequence[Sequence[float]],
    temperature: float,
    top_k: int,
) -> list[str]:
    import torch

    device = lm.model.device
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in prompts], device=device)
    mask = torch.tensor(
        [[1] * held + [0] * (longest - len(row)) + [1] * len(row) for row in prompts],
        device=device,
    )
    positions = (mask.cumsum(1) - 1)[:, held:].clamp_min(0)
    answers: list[list[int]] = [[] for _ in prompts]
    ends = lm.ends()
    open_rows = set(range(len(prompts)))
    numbers = torch.tensor(draws, dtype=torch.float64, device=device)
    with torch.inference_mode():
        for step in range(numbers.shape[1]):
            out = lm.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = lm.checked(out.logits[:, -1]).double()
            values, tokens = (logits / temperature).topk(min(top_k, logits.shape[1]))
            shares = values.softmax(-1).cumsum(-1)
            place = (shares <= numbers[:, step, None]).sum(-1, keepdim=True)
            ids = tokens.gather(1, place.clamp_max(tokens.shape[1] - 1))
            for row in sorted(open_rows):
                token = int(ids[row])
                if token in ends or "\n" in lm.decoded([token]):
                    open_rows.discard(row)
                if token not in ends:
                    answers[row].append(token)
            if not open_rows:
                break
            cache = out.past_key_values
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
            positions = positions[:, -1:] + 1
    return [lm.decoded(answer).partition("\n")[0] for answer in answers]
