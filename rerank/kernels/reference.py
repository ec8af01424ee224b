"""Both operations in plain torch: what the kernels are compared with, and the other devices' side.

    s[h, r, j] = cap(q[h, r] · k[h, j] · scale),   cap(x) = c · tanh(x / c) or x
    p[h, r, j] = exp(s[h, r, j] − LSE[h, r]),       LSE[h, r] = log Σ_j exp s[h, r, j] (+ sink)

over the keys j that row r sees. Computed in fp32 (fp64 for fp64 inputs) and differentiable by
autograd; inputs are never changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ranklens.rerank.kernels.layout import Blocks, Sweep

_ROWS = 256
"""Rows of a block whose logits are held at a time."""


@dataclass(frozen=True, slots=True)
class Attended:
    """``output`` [heads, P, Dv] in the value's dtype and ``lse`` float32 [heads, P]."""

    output: torch.Tensor
    lse: torch.Tensor


@dataclass(frozen=True, slots=True)
class Mass:
    """What a sweep found; what was not asked for is None. All in float32.

    ``tokens`` [groups, shared], heads summed by weight. ``by_head`` [heads read, groups, shared]
    and ``documents`` [heads read, groups, documents] as they are, for each of ``heads``, the
    heads that were read. ``lse`` [heads, rows]; +inf, under which every weight is 0, for heads
    that were not read.
    """

    tokens: torch.Tensor | None
    by_head: torch.Tensor | None
    documents: torch.Tensor | None
    lse: torch.Tensor
    heads: tuple[int, ...]


def heads_read(head_weights: torch.Tensor | None, heads: int) -> tuple[int, ...]:
    """Return the heads whose weight is not 0, in order; without weights all."""
    if head_weights is None:
        return tuple(range(heads))
    return tuple(head for head, weight in enumerate(head_weights.tolist()) if weight)


def block_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: Blocks,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    positions: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
) -> Attended:
    """Return what every block attends to; see ``dispatch.block_attention``."""
    heads, length, size = query.shape
    key_heads, base = key.shape[0], blocks.base
    wide = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (x.to(wide) for x in (query, key, value))
    q = q.reshape(key_heads, heads // key_heads, length, size)
    token = torch.arange(blocks.length, device=query.device)
    outputs, sums = [], []
    for start, end, prefix in sorted(blocks.ranges):
        for first in range(start, end, _ROWS):
            rows = slice(first, min(first + _ROWS, end))
            seen = torch.cat([token[:prefix], token[start : rows.stop]])
            own = q[:, :, rows.start - base : rows.stop - base]
            logits = torch.einsum("hgrd,hkd->hgrk", own, k[:, seen]) * scale
            hidden = seen > token[rows, None]
            if window is not None and positions is not None:
                hidden = hidden | (positions[rows, None] - positions[seen] >= window)
            logits = _cap(logits, softcap).masked_fill(hidden, -torch.inf).flatten(0, 1)
            lse = _with_sink(logits.logsumexp(-1), sinks)
            weights = (logits - lse[..., None]).exp().unflatten(0, (key_heads, -1))
            outputs.append(torch.einsum("hgrk,hkd->hgrd", weights, v[:, seen]).flatten(0, 1))
            sums.append(lse)
    if not outputs:
        return Attended(value.new_zeros(heads, 0, value.shape[-1]), q.new_zeros(heads, 0))
    return Attended(torch.cat(outputs, dim=1).to(value.dtype), torch.cat(sums, dim=1))


def column_mass(
    query: torch.Tensor,
    key: torch.Tensor,
    sweep: Sweep,
    *,
    scale: float,
    head_weights: torch.Tensor | None = None,
    softcap: float | None = None,
    window: int | None = None,
    positions: torch.Tensor | None = None,
    row_positions: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    counted: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
    tokens: bool = True,
    by_head: bool = False,
    documents: bool = False,
) -> Mass:
    """Return what the sweep's rows pay to the shared keys; see ``dispatch.column_mass``."""
    heads, rows, size = query.shape
    key_heads, keys, _ = key.shape
    device, shared = query.device, sweep.shared
    wide = torch.promote_types(query.dtype, torch.float32)
    read = heads_read(head_weights, heads)
    q = query.to(wide).reshape(key_heads, -1, size)
    logits = (q @ key.to(wide).transpose(1, 2)).view(heads, rows, keys) * scale
    visible = _visible(sweep, keys, device)
    if window is not None and positions is not None and row_positions is not None:
        visible = visible & (row_positions[:, None] - positions < window)
    if counted is not None:
        visible = visible & counted
    logits = _cap(logits, softcap).masked_fill(~visible, -torch.inf)
    if lse is None:
        lse = _with_sink(_logsumexp(logits), sinks)
        unread = torch.ones(heads, dtype=torch.bool, device=device)
        unread[list(read)] = False
        lse = lse.masked_fill(unread[:, None], torch.inf)
    # A row that sees no key has no softmax: its weights are 0.
    below = lse.masked_fill(lse == -torch.inf, torch.inf)
    weights = (logits[..., :shared] - below[..., None]).exp()[list(read)]
    mean = torch.zeros(sweep.count, rows, dtype=wide, device=device)
    owner = sweep.bounds(device)[0].long()
    mean[owner, torch.arange(rows, device=device)] = sweep.weights(device).to(wide)
    found = mean @ weights  # [heads read, groups, shared]
    summed = per_document = None
    if tokens:
        chosen = found.new_ones(len(read))
        if head_weights is not None:
            chosen = head_weights.to(device, wide)[list(read)]
        summed = torch.einsum("h,hgs->gs", chosen, found)
    if documents:
        spans = [found[..., start:end].sum(-1) for start, end in sweep.spans]
        per_document = torch.stack(spans, -1) if spans else found[..., :0]
    return Mass(summed, found if by_head else None, per_document, lse, read)


def _visible(sweep: Sweep, keys: int, device: torch.device) -> torch.Tensor:
    """Return which keys each row sees, windows aside, bool [rows, keys]."""
    number = torch.arange(keys, device=device)
    _, first, last = sweep.bounds(device)[:, :, None]
    seen: torch.Tensor = (number < sweep.shared) | ((number >= first) & (number <= last))
    return seen


def _cap(logits: torch.Tensor, softcap: float | None) -> torch.Tensor:
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def _with_sink(lse: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    return lse if sinks is None else torch.logaddexp(lse, sinks.to(lse.dtype)[:, None])


def _logsumexp(logits: torch.Tensor) -> torch.Tensor:
    """Return the sum over the last dimension; rows of −inf keep gradients of 0, not NaN."""
    empty = (logits == -torch.inf).all(-1)
    total = logits.masked_fill(empty[..., None], 0.0).logsumexp(-1)
    return total.masked_fill(empty, -torch.inf)
