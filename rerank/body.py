"""Causal attention of the shared tokens among themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

_BLOCK = 256
_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class Softmax:
    """How a layer turns products into weights.

    ``window``: a token sees itself and that many − 1 before it; None sees all. ``softcap`` c
    bounds logits as c · tanh(logit / c) (Gemma 2). ``sinks`` [heads]: a logit per head that
    takes part in the softmax and carries no value (GPT-OSS).
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    def cap(self, logits: torch.Tensor) -> torch.Tensor:
        """Return scaled logits after the soft cap."""
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def normalise(self, logits: torch.Tensor, heads: slice) -> torch.Tensor:
        """Return weights over the last dimension; logits [heads, rows, keys], see ``wide``."""
        if self.sinks is None:
            return torch.softmax(logits, dim=-1)
        sink = wide(self.sinks[heads])[:, None]
        total = torch.logaddexp(logits.logsumexp(-1), sink)
        return torch.exp(logits - total[..., None])


def wide(states: torch.Tensor) -> torch.Tensor:
    """Return states in what softmaxes and sums are computed in: fp32, fp64 where they are that."""
    return states.to(torch.promote_types(states.dtype, torch.float32))


def causal_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    length: int,
    softmax: Softmax,
    positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the attention output [batch, length, heads, D] of the first ``length`` tokens.

    Shapes: query [batch, heads, P, D]; key, value [batch, key heads, P, D]. ``positions``
    [batch, P], growing, are what a window counts where it is not the tokens. What a fused
    kernel cannot do (window, soft cap, sinks) is computed in blocks of rows, so nothing of size
    P × P is stored either way.
    """
    heads = query.shape[1]
    plain = softmax.softcap is None and softmax.sinks is None
    reaches = length
    if positions is not None:
        # At least the length, filled up or not: blocks of a length go one way, whatever the others.
        reaches = max(length, 1 + int((positions[:, -1] - positions[:, 0]).max()))
    if plain and (softmax.window is None or reaches <= softmax.window):
        # Tokens behind ``length`` change nothing before them, and the CPU's kernel in bf16 is up
        # to a fifth slower with a number of keys that is not even. Whether there are any must not
        # change how many rows it takes at a time.
        taken = -(-length // _ALIGNMENT) * _ALIGNMENT
        query, key, value = (x[:, :, :taken] for x in (query, key, value))
        if query.shape[2] < taken:
            query, key, value = (
                F.pad(x, (0, 0, 0, taken - x.shape[2])) for x in (query, key, value)
            )
        if query.is_cuda and heads != key.shape[1]:
            # CUDA's memory-efficient kernel takes no groups, and what would stand in for it in
            # fp32 stores heads × P × P.
            key, value = (x.repeat_interleave(heads // key.shape[1], 1) for x in (key, value))
        out = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=softmax.scale,
            enable_gqa=heads != key.shape[1],
        )  # fmt: skip
        return out.transpose(1, 2)[:, :length]
    query, key, value = (x[:, :, :length] for x in (query, key, value))
    if positions is None:
        positions = torch.arange(length, device=query.device).expand(len(query), -1)
    output = query.new_empty(len(query), length, heads, value.shape[-1])
    for number, counted in enumerate(positions):
        for start in range(0, length, _BLOCK):
            output[number, start : start + _BLOCK] = _rows(
                query[number], key[number], value[number], start, counted, softmax
            )
    return output


def _rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    start: int,
    positions: torch.Tensor,
    softmax: Softmax,
) -> torch.Tensor:
    """Return the output [rows, heads, D] of a block of rows that begins at ``start``."""
    heads, length, size = query.shape
    key_heads = key.shape[0]
    end = min(start + _BLOCK, length)
    first = 0
    if softmax.window is not None:
        first = int((positions <= positions[start] - softmax.window).sum())
    rows = (query[:, start:end] * softmax.scale).reshape(key_heads, -1, size)
    keys = key[:, first:end].transpose(1, 2)
    if rows.dtype == torch.float16:
        # Products beyond 65,504 would be infinite.
        rows, keys = rows.float(), keys.float()
    logits = wide(rows @ keys)
    logits = softmax.cap(logits).view(heads, end - start, end - first)
    hidden = torch.ones(end - start, end - first, device=query.device).triu(start - first + 1) > 0
    if softmax.window is not None:
        hidden |= positions[start:end, None] - positions[None, first:end] >= softmax.window
    weights = softmax.normalise(logits.masked_fill_(hidden, -torch.inf), slice(None))
    weights = weights.to(value.dtype).view(key_heads, -1, end - first)
    return (weights @ value[:, first:end]).view(heads, end - start, -1).transpose(0, 1)
