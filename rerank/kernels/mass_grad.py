"""Gradients of column mass, recomputed from LSE; formulas of ``mass``.

With U[h, g, j] the gradient of a[h, g, j], gathered from those of tokens, heads and documents,

    c[h, r]     = Σ_{j shared} p[h, r, j] w[r] U[h, g(r), j]
    dLSE[h, r]  = (gradient of the returned LSE) − c[h, r]
    ds[h, r, j] = p[h, r, j] (w[r] U[h, g(r), j] + dLSE[h, r]) cap'(s)
    dq[h, r]    = scale Σ_j ds[h, r, j] k[j]
    dk[j]       = scale Σ_{h, r} ds[h, r, j] q[h, r]
    dsink[h]    = Σ_r exp(sink[h] − LSE[h, r]) dLSE[h, r]

Where LSE was given dLSE goes back to it, and is no part of ds. c and dq are summed over parts of
the keys, which are joined in order; a program of dk takes one tile of keys and walks all rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from ranklens.rerank.kernels.mass_tile import Problem, rows_of_a_head, visible
from ranklens.rerank.kernels.tile import LOG2E, cap_slope, load_tile, logits, store_tile

_VARYING = ["rows", "groups", "read", "shared", "keys", "count", "chunk", "window"]


@triton.jit(do_not_specialize=_VARYING)
def _rows_bwd_kernel(
    query, key, lse, slopes, d_lse, found, heads, places, row_weights, bounds, tiles,
    positions, row_positions, counted, q_head, q_row, k_head, k_row,
    rows, read, groups, shared, chunk, scale, softcap, window,
    G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
    BS: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr, COUNTED: tl.constexpr,
    QUERY: tl.constexpr,
):  # fmt: skip
    """The n-th part of c, found [n, read, rows], or with QUERY of dq, found [n, read, rows, D]."""
    i_key_head, i_split = tl.program_id(1), tl.program_id(2)
    p_tile = tiles + tl.program_id(0) * 5
    first, end, group = tl.load(p_tile), tl.load(p_tile + 1), tl.load(p_tile + 2)
    own_from, own_to = tl.load(p_tile + 3), tl.load(p_tile + 4)
    o_m = tl.arange(0, BM)
    b_head = tl.load(heads + i_key_head * GP + o_m // (BM // GP)).to(tl.int64)
    b_place = tl.load(places + i_key_head * GP + o_m // (BM // GP)).to(tl.int64)
    o_row = first + o_m % (BM // GP)
    m_row = (b_head >= 0) & (o_row < end)
    o_far = o_row.to(tl.int64)
    b_q = load_tile(query, b_head * q_head + o_far * q_row, m_row, D, BD)  # [BM, BD]
    b_lse = tl.load(lse + b_head * rows + o_far, mask=m_row, other=0.0) * LOG2E
    b_w = tl.load(row_weights + o_row, mask=m_row, other=0.0)
    m_row = m_row & (b_lse != float("-inf"))
    p_key = key + tl.load(heads + i_key_head * GP).to(tl.int64) // G * k_head
    b_add = tl.full([BM], 0.0, tl.float32)
    b_dq = tl.full([BM, BD], 0.0, tl.float32)
    if QUERY:
        b_add = tl.load(d_lse + b_head * rows + o_far, mask=m_row, other=0.0)

    shared_from = i_split * chunk
    shared_to = tl.minimum(shared_from + chunk, shared)
    whole = i_split == tl.num_programs(2) - 1
    for stretch in range(2):
        key_from = tl.where(stretch == 0, shared_from, own_from)
        key_to = tl.where(stretch == 0, shared_to, tl.where(whole, own_to, own_from))
        for key_first in range(key_from, key_to, BS):
            o_key = key_first + tl.arange(0, BS)
            m_key = o_key < key_to
            m_seen = visible(
                o_row, o_key, m_row, m_key, bounds, rows, shared, positions, row_positions,
                counted, window, WINDOW, COUNTED,
            )  # fmt: skip
            b_k = load_tile(p_key, o_key.to(tl.int64) * k_row, m_key, D, BD)  # [BS, BD]
            b_s = logits(b_q, b_k, scale, softcap, SOFTCAP)  # [BM, BS]
            b_p = tl.exp2(tl.where(m_seen, b_s - b_lse[:, None], float("-inf")))
            p_u = slopes + ((b_place * groups + group) * shared)[:, None] + o_key[None, :]
            m_u = m_row[:, None] & (m_key & (o_key < shared))[None, :]
            b_u = tl.load(p_u, mask=m_u, other=0.0) * b_w[:, None]
            if QUERY:
                b_ds = b_p * (b_u + b_add[:, None]) * cap_slope(b_s, softcap, SOFTCAP)
                b_dq += tl.dot(b_ds.to(b_k.dtype), b_k, input_precision="ieee")
            else:
                b_add += tl.sum(b_p * b_u, 1)
    m_out = (b_head >= 0) & (o_row < end)
    o_out = (i_split.to(tl.int64) * read + b_place) * rows + o_far
    if QUERY:
        store_tile(found, o_out * D, m_out, b_dq * scale, D, BD)
    else:
        tl.store(found + o_out, b_add, mask=m_out)


@triton.jit(do_not_specialize=_VARYING)
def _keys_bwd_kernel(
    query, key, lse, slopes, d_lse, d_key, heads, places, row_weights, bounds, tiles,
    positions, row_positions, counted, q_head, q_row, k_head, k_row, dk_head, dk_row,
    rows, groups, shared, keys, count, scale, softcap, window,
    G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
    BS: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr, COUNTED: tl.constexpr,
):  # fmt: skip
    """dk = scale Σ_r ds_r q_r for one tile of keys, over all ``count`` tiles of rows."""
    i_key_head = tl.program_id(1)
    o_key = tl.program_id(0) * BS + tl.arange(0, BS)
    m_key = o_key < keys
    o_wide = o_key.to(tl.int64)
    i_head = tl.load(heads + i_key_head * GP).to(tl.int64) // G
    b_k = load_tile(key + i_head * k_head, o_wide * k_row, m_key, D, BD)  # [BS, BD]
    o_m = tl.arange(0, BM)
    b_head = tl.load(heads + i_key_head * GP + o_m // (BM // GP)).to(tl.int64)
    b_place = tl.load(places + i_key_head * GP + o_m // (BM // GP)).to(tl.int64)
    b_dk = tl.full([BS, BD], 0.0, tl.float32)
    for tile in range(count):
        p_tile = tiles + tile * 5
        group = tl.load(p_tile + 2)
        o_row = tl.load(p_tile) + o_m % (BM // GP)
        m_row = (b_head >= 0) & (o_row < tl.load(p_tile + 1))
        o_far = o_row.to(tl.int64)
        b_q = load_tile(query, b_head * q_head + o_far * q_row, m_row, D, BD)  # [BM, BD]
        b_lse = tl.load(lse + b_head * rows + o_far, mask=m_row, other=0.0) * LOG2E
        b_add = tl.load(d_lse + b_head * rows + o_far, mask=m_row, other=0.0)
        b_w = tl.load(row_weights + o_row, mask=m_row, other=0.0)
        m_row = m_row & (b_lse != float("-inf"))
        m_seen = visible(
            o_row, o_key, m_row, m_key, bounds, rows, shared, positions, row_positions,
            counted, window, WINDOW, COUNTED,
        )  # fmt: skip
        b_s = logits(b_q, b_k, scale, softcap, SOFTCAP)  # [BM, BS]
        b_p = tl.exp2(tl.where(m_seen, b_s - b_lse[:, None], float("-inf")))
        p_u = slopes + ((b_place * groups + group) * shared)[:, None] + o_key[None, :]
        m_u = m_row[:, None] & (m_key & (o_key < shared))[None, :]
        b_u = tl.load(p_u, mask=m_u, other=0.0) * b_w[:, None]
        b_ds = b_p * (b_u + b_add[:, None]) * cap_slope(b_s, softcap, SOFTCAP)
        b_dk += tl.dot(tl.trans(b_ds).to(b_q.dtype), b_q, input_precision="ieee")
    store_tile(d_key, i_head * dk_head + o_wide * dk_row, m_key, b_dk * scale, D, BD)


def gradients(
    problem: Problem,
    lse: torch.Tensor,
    sinks: torch.Tensor | None,
    upstream: Sequence[torch.Tensor | None],
    *,
    given: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Return the gradients of query, key, sinks and, where it was ``given``, LSE.

    ``upstream``: the gradients of tokens, by_head, documents and LSE, None where there is none.
    """
    sweep, query, key = problem.sweep, problem.query, problem.key
    _, rows, size = query.shape
    read = list(problem.read)
    tiles = sweep.row_tiles(rows_of_a_head(problem.backward), query.device)
    slopes = _slopes(problem, upstream)
    splits = sweep.splits(len(tiles))
    d_lse = torch.zeros_like(lse) if upstream[3] is None else upstream[3].float().contiguous()
    d_query, d_key = torch.zeros_like(query), torch.zeros_like(key)
    launches = bool(len(tiles) and read)
    tables, weights = problem.tables, sweep.weights(query.device)
    bounds = sweep.bounds(query.device)
    common = (
        tables.heads, tables.places, weights, bounds, tiles, *problem.masks, *problem.strides
    )  # fmt: skip

    def by_rows(d_lse: torch.Tensor, *shape: int) -> torch.Tensor:
        found = torch.empty(splits, *shape, dtype=torch.float32, device=query.device)
        _rows_bwd_kernel[(len(tiles), len(tables.heads), splits)](
            query, key, lse, slopes, d_lse, found, *common, rows, len(read), sweep.count,
            sweep.shared, -(-sweep.shared // splits), *problem.numbers, QUERY=len(shape) == 3,
            **problem.backward,
        )  # fmt: skip
        return found.sum(0)

    if launches:
        d_lse = d_lse.clone()
        d_lse[read] -= by_rows(d_lse, len(read), rows)
    within = torch.zeros_like(lse) if given else d_lse
    if launches:
        d_query[read] = by_rows(within, len(read), rows, size).to(query.dtype)
        keys = key.shape[1]
        _keys_bwd_kernel[(triton.cdiv(keys, problem.backward["BS"]), len(tables.heads))](
            query, key, lse, slopes, within, d_key, *common, *d_key.stride()[:2], rows,
            sweep.count, sweep.shared, keys, len(tiles), *problem.numbers, **problem.backward,
        )  # fmt: skip
    if given:
        return d_query, d_key, None, d_lse
    d_sinks = None
    if sinks is not None:
        d_sinks = ((sinks.float()[:, None] - lse).exp() * d_lse).sum(1).to(sinks.dtype)
    return d_query, d_key, d_sinks, None


def _slopes(problem: Problem, upstream: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Return U, the gradient of what each head read pays, float32 [heads read, groups, shared]."""
    tokens, by_head, documents, _ = upstream
    sweep, device = problem.sweep, problem.query.device
    found = torch.zeros(len(problem.read), sweep.count, sweep.shared, device=device)
    if tokens is not None:
        found += torch.tensor(problem.weights, device=device)[:, None, None] * tokens
    if by_head is not None:
        found += by_head
    if documents is not None and sweep.spans:
        owner = sweep.document_of_key(device)
        found += torch.where(owner >= 0, documents[..., owner.clamp_min(0)], 0.0)
    return found
