"""Column mass: what groups of rows pay to each shared key, without a rows × keys tensor.

    p[h, r, j] = exp(cap(q[h, r] · k[h / G, j] · scale) − LSE[h, r])   for keys that r sees, else 0
    a[h, g, j] = Σ_{r in g} w[r] p[h, r, j]                            by head
    t[g, j]    = Σ_h u[h] a[h, g, j]                                   tokens
    d[h, g, n] = Σ_{j in span n} a[h, g, j]                            documents

Phase 1, left out where LSE is given: LSE over all visible keys, the shared ones cut into parts
that are joined in order. Phase 2: a program takes one tile of shared keys and one key head,
walks the row tiles of all groups and reduces each over its rows, so one sweep serves all groups.
A row tile has rows of one group, those of the heads read that share a key head folded into it.
What is left to add, over key heads and over the tiles of a document, is small and added in
order. Shapes: query [heads, rows, D], key [key heads, keys, D].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from ranklens.rerank.kernels.layout import Sweep
from ranklens.rerank.kernels.mass_grad import gradients
from ranklens.rerank.kernels.mass_tile import Problem, rows_of_a_head, visible
from ranklens.rerank.kernels.reference import Mass, heads_read
from ranklens.rerank.kernels.tile import LN2, LOG2E, finite, load_tile, logits, on_device_of

_VARYING = ["rows", "all_heads", "groups", "read", "shared", "chunk", "window"]


@triton.jit(do_not_specialize=_VARYING)
def _lse_fwd_kernel(
    query, key, part_lse, heads, bounds, tiles, positions, row_positions, counted,
    q_head, q_row, k_head, k_row, rows, all_heads, shared, chunk, scale, softcap, window,
    G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
    BS: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr, COUNTED: tl.constexpr,
):  # fmt: skip
    """LSE_n = log Σ_j exp s_j over the n-th part of the keys."""
    i_tile, i_split = tl.program_id(0), tl.program_id(2)
    p_tile = tiles + i_tile * 5
    first, end = tl.load(p_tile), tl.load(p_tile + 1)
    own_from, own_to = tl.load(p_tile + 3), tl.load(p_tile + 4)
    o_m = tl.arange(0, BM)
    b_head = tl.load(heads + tl.program_id(1) * GP + o_m // (BM // GP)).to(tl.int64)
    o_row = first + o_m % (BM // GP)
    m_row = (b_head >= 0) & (o_row < end)
    o_far = o_row.to(tl.int64)
    b_q = load_tile(query, b_head * q_head + o_far * q_row, m_row, D, BD)  # [BM, BD]
    p_key = key + tl.load(heads + tl.program_id(1) * GP).to(tl.int64) // G * k_head

    b_max = tl.full([BM], float("-inf"), tl.float32)
    b_sum = tl.full([BM], 0.0, tl.float32)
    shared_from = i_split * chunk
    shared_to = tl.minimum(shared_from + chunk, shared)
    # The last part takes the rows' own keys behind the shared ones too.
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
            b_s = tl.where(m_seen, b_s, float("-inf"))
            b_new = tl.maximum(b_max, tl.max(b_s, 1))
            b_base = finite(b_new)
            b_sum = b_sum * tl.exp2(b_max - b_base) + tl.sum(tl.exp2(b_s - b_base[:, None]), 1)
            b_max = b_new
    b_lse = b_max + tl.log2(tl.where(b_sum == 0, 1.0, b_sum))
    o_out = (i_split.to(tl.int64) * all_heads + b_head) * rows + o_far
    tl.store(part_lse + o_out, b_lse * LN2, mask=m_row)


@triton.jit(do_not_specialize=_VARYING)
def _mass_fwd_kernel(
    query, key, lse, tokens, by_head, documents, heads, places, head_weights, row_weights,
    bounds, row_tiles, group_tiles, key_tiles, positions, row_positions, counted,
    q_head, q_row, k_head, k_row, rows, groups, read, shared, scale, softcap, window,
    G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
    BS: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr, COUNTED: tl.constexpr,
    TOKENS: tl.constexpr, BY_HEAD: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    """a[h, g, j] = Σ_{r in g} w[r] 2^(s − LSE) for one tile of keys, and what is made of it."""
    i_tile, i_key_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_key = tl.load(key_tiles + i_tile * 2) + tl.arange(0, BS)
    m_key = o_key < tl.load(key_tiles + i_tile * 2 + 1)
    p_key = key + tl.load(heads + i_key_head * GP).to(tl.int64) // G * k_head
    b_k = load_tile(p_key, o_key.to(tl.int64) * k_row, m_key, D, BD)  # [BS, BD]
    o_g = tl.arange(0, GP)
    b_place = tl.load(places + i_key_head * GP + o_g).to(tl.int64)  # [GP]
    b_u = tl.load(head_weights + i_key_head * GP + o_g)  # [GP]
    o_m = tl.arange(0, BM)
    b_head = tl.load(heads + i_key_head * GP + o_m // (BM // GP)).to(tl.int64)  # [BM]
    for group in range(groups):
        b_mass = tl.full([GP, BS], 0.0, tl.float32)
        for tile in range(tl.load(group_tiles + group), tl.load(group_tiles + group + 1)):
            o_row = tl.load(row_tiles + tile * 2) + o_m % (BM // GP)
            m_row = (b_head >= 0) & (o_row < tl.load(row_tiles + tile * 2 + 1))
            o_far = o_row.to(tl.int64)
            b_q = load_tile(query, b_head * q_head + o_far * q_row, m_row, D, BD)  # [BM, BD]
            b_lse = tl.load(lse + b_head * rows + o_far, mask=m_row, other=0.0) * LOG2E
            b_w = tl.load(row_weights + o_row, mask=m_row, other=0.0)
            m_seen = visible(
                o_row, o_key, m_row, m_key, bounds, rows, shared, positions, row_positions,
                counted, window, WINDOW, COUNTED,
            )  # fmt: skip
            # A row whose LSE is −inf sees nothing.
            m_seen = m_seen & ((b_w != 0) & (b_lse != float("-inf")))[:, None]
            b_s = logits(b_q, b_k, scale, softcap, SOFTCAP)  # [BM, BS]
            b_p = tl.exp2(tl.where(m_seen, b_s - b_lse[:, None], float("-inf"))) * b_w[:, None]
            b_mass += tl.sum(tl.reshape(b_p, (GP, BM // GP, BS)), 1)
        if TOKENS:
            o_out = (i_key_head * groups + group).to(tl.int64) * shared + o_key
            tl.store(tokens + o_out, tl.sum(b_mass * b_u[:, None], 0), mask=m_key)
        if BY_HEAD:
            o_head = (b_place * groups + group) * shared  # [GP]
            m_head = (b_place >= 0)[:, None] & m_key[None, :]
            tl.store(by_head + o_head[:, None] + o_key[None, :], b_mass, mask=m_head)
        if DOCUMENTS:
            o_part = (i_tile * read + b_place) * groups + group
            tl.store(documents + o_part, tl.sum(b_mass, 1), mask=b_place >= 0)


@triton.jit(do_not_specialize=["count", "documents"])
def _documents_fwd_kernel(found, part, owned, count, documents, B: tl.constexpr):
    """d[n] = Σ a of the tiles of document n, in order, for B of the ``count`` heads × groups."""
    i_document = tl.program_id(0)
    o_c = tl.program_id(1) * B + tl.arange(0, B)
    m_c = o_c < count
    b_sum = tl.full([B], 0.0, tl.float32)
    for tile in range(tl.load(owned + i_document * 2), tl.load(owned + i_document * 2 + 1)):
        b_sum += tl.load(part + o_c.to(tl.int64) + tile * count, mask=m_c, other=0.0)
    tl.store(found + o_c.to(tl.int64) * documents + i_document, b_sum, mask=m_c)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which outputs are asked for."""

    tokens: bool
    by_head: bool
    documents: bool


def _log_sums(problem: Problem) -> torch.Tensor:
    """Return LSE, sinks apart, float32 [heads, rows]; +inf for heads that are not read."""
    sweep, query = problem.sweep, problem.query
    tiles = sweep.row_tiles(rows_of_a_head(problem.forward), query.device)
    splits = sweep.splits(len(tiles))
    heads, rows, _ = query.shape
    part = torch.full((splits, heads, rows), torch.inf, device=query.device)
    if len(tiles) and problem.read:
        _lse_fwd_kernel[(len(tiles), len(problem.tables.heads), splits)](
            query, problem.key, part, problem.tables.heads, sweep.bounds(query.device), tiles,
            *problem.masks, *problem.strides, rows, heads, sweep.shared, -(-sweep.shared // splits),
            *problem.numbers, **problem.forward,
        )  # fmt: skip
    return part[0] if splits == 1 else torch.logsumexp(part, 0)


def _masses(problem: Problem, lse: torch.Tensor, wanted: _Wanted) -> list[torch.Tensor | None]:
    """Return the outputs that are wanted."""
    sweep, tables, device = problem.sweep, problem.tables, problem.query.device
    row_tiles, group_tiles = sweep.counted_tiles(rows_of_a_head(problem.forward), device)
    key_tiles, owned = sweep.key_tiles(problem.forward["BS"], device)
    groups, read, shared = sweep.count, len(problem.read), sweep.shared
    by_key_head, documents = len(problem.tables.heads), len(sweep.spans)

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32, device=device)

    tokens = empty(by_key_head, groups, shared) if wanted.tokens else None
    by_head = empty(read, groups, shared) if wanted.by_head else None
    part = empty(len(key_tiles), read, groups) if wanted.documents else None
    if len(key_tiles) and groups and read:
        _mass_fwd_kernel[(len(key_tiles), by_key_head)](
            problem.query, problem.key, lse, tokens, by_head, part, tables.heads, tables.places,
            tables.weights, sweep.weights(device), sweep.bounds(device), row_tiles, group_tiles,
            key_tiles, *problem.masks, *problem.strides, sweep.rows, groups, read, shared,
            *problem.numbers, TOKENS=wanted.tokens, BY_HEAD=wanted.by_head,
            DOCUMENTS=wanted.documents, **problem.forward,
        )  # fmt: skip
    summed = None if tokens is None else tokens.sum(0)
    found = None
    if part is not None:
        found = empty(read, groups, documents)
        if found.numel():
            width = 128
            _documents_fwd_kernel[(documents, triton.cdiv(read * groups, width))](
                found, part, owned, read * groups, documents, B=width
            )
    return [summed, by_head, found]


class _ColumnMass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        sinks: torch.Tensor | None,
        lse: torch.Tensor | None,
        problem: Problem,
        wanted: _Wanted,
    ) -> tuple[torch.Tensor | None, ...]:
        problem = problem.of(query, key)
        ctx.given = lse is not None
        with on_device_of(query):
            if lse is None:
                lse = _log_sums(problem)
                if sinks is not None:
                    lse = torch.logaddexp(lse, sinks.float()[:, None])
            else:
                lse = lse.contiguous()
            found = _masses(problem, lse, wanted)
        ctx.save_for_backward(query, key, sinks, lse)
        ctx.problem = problem.of(None, None)
        ctx.set_materialize_grads(False)
        return (*found, lse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: torch.Tensor | None) -> tuple[Any, ...]:
        query, key, sinks, lse = ctx.saved_tensors
        problem = ctx.problem.of(query, key)
        with on_device_of(query):
            found = gradients(problem, lse, sinks, upstream, given=ctx.given)
        return (*found, None, None)


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
    read = heads_read(head_weights, query.shape[0])
    problem = Problem.make(
        query, key, sweep, read, head_weights, scale, softcap, window, positions, row_positions,
        counted,
    )  # fmt: skip
    wanted = _Wanted(tokens, by_head, documents)
    summed, heads, spans, sums = _ColumnMass.apply(query, key, sinks, lse, problem, wanted)
    return Mass(summed, heads, spans, sums, read)
