"""Gradients of block attention, recomputed from LSE; formulas of ``blocks``.

    p[h, i, j]  = exp(s[h, i, j] − LSE[h, i])
    ds[h, i, j] = p[h, i, j] (do[h, i] · v[j] − Δ[h, i]) cap'(s)
    Δ[h, i]     = do[h, i] · o[h, i] − dLSE[h, i]
    dq[h, i]    = scale Σ_j ds[h, i, j] k[j]
    dk[j]       = scale Σ_{h, i} ds[h, i, j] q[h, i]
    dv[j]       = Σ_{h, i} p[h, i, j] do[h, i]
    dsink[h]    = −Σ_i exp(sink[h] − LSE[h, i]) Δ[h, i]

dq has the programs of the forward pass. dk and dv have one for each tile of keys, which walks
all rows that see it, its own block's and those whose prefix it lies in; where they are many,
several programs whose parts are added in order. Keys before ``blocks.base`` have no rows of their
own, only those whose prefix they lie in. So nothing is added to by two programs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ranklens.rerank.kernels.layout import Blocks
from ranklens.rerank.kernels.tile import (
    LOG2E,
    cap_slope,
    dense,
    gradient_tiles,
    load_tile,
    logits,
    on_device_of,
    padded,
    store_tile,
)

_VARYING = ["length", "base", "window"]


@triton.jit
def _towards_query(
    b_dq, b_q, b_do, b_lse, b_delta, o_row, m_row, b_place, p_key, p_value, k_row, v_row,
    positions, start, end, scale, softcap, window,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BS: tl.constexpr,
    CAUSAL: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Add Σ_j ds_j k_j for keys [start, end) to b_dq [BM, BD]."""
    for first in range(start, end, BS):
        o_key = first + tl.arange(0, BS)
        m_key = o_key < end
        near = True
        if WINDOW:
            b_there = tl.load(positions + o_key, mask=m_key, other=-(2**30))
            b_last = tl.max(b_there, 0)
            near = tl.min(tl.where(m_row, b_place, 2**30), 0) - b_last < window
        if near:
            m_seen = m_row[:, None] & m_key[None, :]
            if CAUSAL:
                m_seen = m_seen & (o_key[None, :] <= o_row[:, None])
            if WINDOW:
                m_seen = m_seen & (b_place[:, None] - b_there[None, :] < window)
            o_far = o_key.to(tl.int64)
            b_k = load_tile(p_key, o_far * k_row, m_key, D, BD)  # [BS, BD]
            b_v = load_tile(p_value, o_far * v_row, m_key, DV, BDV)  # [BS, BDV]
            b_s = logits(b_q, b_k, scale, softcap, SOFTCAP)  # [BM, BS]
            b_p = tl.exp2(tl.where(m_seen, b_s - b_lse[:, None], float("-inf")))
            b_dp = tl.dot(b_do, tl.trans(b_v), input_precision="ieee")
            b_ds = b_p * (b_dp - b_delta[:, None]) * cap_slope(b_s, softcap, SOFTCAP)
            b_dq += tl.dot(b_ds.to(b_k.dtype), b_k, input_precision="ieee")
    return b_dq


@triton.jit(do_not_specialize=_VARYING)
def _blocks_query_bwd_kernel(
    query, key, value, d_output, lse, delta, d_query, part, positions, items,
    q_head, q_row, k_head, k_row, v_head, v_row, do_head, do_row, dq_head, dq_row, length,
    base, scale, softcap, window,
    G: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BS: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """dq = scale Σ_j p_j (do · v_j − Δ) cap'(s_j) k_j."""
    p_item = items + tl.program_id(0).to(tl.int64) * 7
    i_key_head = tl.program_id(1).to(tl.int64)
    first, end = tl.load(p_item), tl.load(p_item + 1)
    prefix_from, prefix_to = tl.load(p_item + 2), tl.load(p_item + 3)
    own_from, own_to = tl.load(p_item + 4), tl.load(p_item + 5)
    slot = tl.load(p_item + 6).to(tl.int64)

    o_m = tl.arange(0, BM)
    o_row = first + o_m // G
    o_head = i_key_head * G + o_m % G  # [BM]
    m_row = (o_m < BM // G * G) & (o_row < end)
    o_far = (o_row - base).to(tl.int64)
    b_q = load_tile(query, o_head * q_head + o_far * q_row, m_row, D, BD)  # [BM, BD]
    b_do = load_tile(d_output, o_head * do_head + o_far * do_row, m_row, DV, BDV)  # [BM, BDV]
    b_lse = tl.load(lse + o_head * length + o_far, mask=m_row, other=0.0) * LOG2E
    b_delta = tl.load(delta + o_head * length + o_far, mask=m_row, other=0.0)
    b_place = o_row
    if WINDOW:
        b_place = tl.load(positions + o_row, mask=m_row, other=0)

    b_dq = tl.full([BM, BD], 0.0, tl.float32)
    p_key, p_value = key + i_key_head * k_head, value + i_key_head * v_head
    b_dq = _towards_query(
        b_dq, b_q, b_do, b_lse, b_delta, o_row, m_row, b_place, p_key, p_value, k_row, v_row,
        positions, prefix_from, prefix_to, scale, softcap, window,
        D, DV, BD, BDV, BS, False, SOFTCAP, WINDOW,
    )  # fmt: skip
    b_dq = _towards_query(
        b_dq, b_q, b_do, b_lse, b_delta, o_row, m_row, b_place, p_key, p_value, k_row, v_row,
        positions, own_from, own_to, scale, softcap, window,
        D, DV, BD, BDV, BS, True, SOFTCAP, WINDOW,
    )  # fmt: skip
    b_dq *= scale
    if slot < 0:
        store_tile(d_query, o_head * dq_head + o_far * dq_row, m_row, b_dq, D, BD)
    else:
        o_part = (slot * tl.num_programs(1) + i_key_head) * BM + o_m
        store_tile(part, o_part * D, o_m < BM, b_dq, D, BD)


@triton.jit(do_not_specialize=_VARYING)
def _blocks_key_bwd_kernel(
    query, key, value, d_output, lse, delta, d_key, d_value, part_k, part_v, positions, items,
    visits, q_head, q_row, k_head, k_row, v_head, v_row, do_head, do_row,
    dk_head, dk_row, dv_head, dv_row, length, base, scale, softcap, window,
    G: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BS: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """dv = Σ_i p_i do_i and dk = scale Σ_i ds_i q_i for one tile of keys."""
    p_item = items + tl.program_id(0).to(tl.int64) * 5
    i_key_head = tl.program_id(1).to(tl.int64)
    first, end = tl.load(p_item), tl.load(p_item + 1)
    visit_from, visit_to = tl.load(p_item + 2), tl.load(p_item + 3)
    slot = tl.load(p_item + 4).to(tl.int64)

    o_n = tl.arange(0, BS)
    o_key = first + o_n
    m_key = o_key < end
    o_far = o_key.to(tl.int64)
    b_k = load_tile(key, i_key_head * k_head + o_far * k_row, m_key, D, BD)  # [BS, BD]
    b_v = load_tile(value, i_key_head * v_head + o_far * v_row, m_key, DV, BDV)  # [BS, BDV]
    b_there = o_key
    if WINDOW:
        b_there = tl.load(positions + o_key, mask=m_key, other=-(2**30))
    o_m = tl.arange(0, BM)
    o_head = i_key_head * G + o_m % G  # [BM]
    b_dk = tl.full([BS, BD], 0.0, tl.float32)
    b_dv = tl.full([BS, BDV], 0.0, tl.float32)
    for visit in range(visit_from, visit_to):
        p_visit = visits + visit * 4
        row_from, row_to = tl.load(p_visit), tl.load(p_visit + 1)
        limit, causal = tl.load(p_visit + 2), tl.load(p_visit + 3)
        for row in range(row_from, row_to, BM // G):
            o_row = row + o_m // G
            m_row = (o_m < BM // G * G) & (o_row < row_to)
            near = True
            if WINDOW:
                b_place = tl.load(positions + o_row, mask=m_row, other=0)
                b_first = tl.min(tl.where(m_row, b_place, 2**30), 0)
                near = b_first - tl.max(b_there, 0) < window
            if near:
                o_up = (o_row - base).to(tl.int64)
                b_q = load_tile(query, o_head * q_head + o_up * q_row, m_row, D, BD)
                b_do = load_tile(d_output, o_head * do_head + o_up * do_row, m_row, DV, BDV)
                b_lse = tl.load(lse + o_head * length + o_up, mask=m_row, other=0.0) * LOG2E
                b_delta = tl.load(delta + o_head * length + o_up, mask=m_row, other=0.0)
                m_seen = m_row[:, None] & (o_key < limit)[None, :]
                m_seen = m_seen & ((causal == 0) | (o_key[None, :] <= o_row[:, None]))
                if WINDOW:
                    m_seen = m_seen & (b_place[:, None] - b_there[None, :] < window)
                b_s = logits(b_q, b_k, scale, softcap, SOFTCAP)  # [BM, BS]
                b_p = tl.exp2(tl.where(m_seen, b_s - b_lse[:, None], float("-inf")))
                b_dv += tl.dot(tl.trans(b_p).to(b_do.dtype), b_do, input_precision="ieee")
                b_dp = tl.dot(b_do, tl.trans(b_v), input_precision="ieee")
                b_ds = b_p * (b_dp - b_delta[:, None]) * cap_slope(b_s, softcap, SOFTCAP)
                b_dk += tl.dot(tl.trans(b_ds).to(b_q.dtype), b_q, input_precision="ieee")
    b_dk *= scale
    if slot < 0:
        store_tile(d_key, i_key_head * dk_head + o_far * dk_row, m_key, b_dk, D, BD)
        store_tile(d_value, i_key_head * dv_head + o_far * dv_row, m_key, b_dv, DV, BDV)
    else:
        o_part = (slot * tl.num_programs(1) + i_key_head) * BS + o_n
        store_tile(part_k, o_part * D, o_n < BS, b_dk, D, BD)
        store_tile(part_v, o_part * DV, o_n < BS, b_dv, DV, BDV)


@triton.jit(do_not_specialize=["base"])
def _sum_bwd_kernel(
    target, part, joins, t_head, t_row, base,
    G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """target = Σ_n part_n, n in order; parts are tiles of rows with G heads folded in."""
    p_join = joins + tl.program_id(0).to(tl.int64) * 4
    i_key_head = tl.program_id(1).to(tl.int64)
    first, end = tl.load(p_join), tl.load(p_join + 1)
    slot_from, slot_to = tl.load(p_join + 2), tl.load(p_join + 3)
    o_m = tl.arange(0, BM)
    o_row = first + o_m // G
    o_head = i_key_head * G + o_m % G
    m_row = (o_m < BM // G * G) & (o_row < end)
    b_sum = tl.full([BM, BD], 0.0, tl.float32)
    for slot in range(slot_from, slot_to):
        o_part = (slot * tl.num_programs(1) + i_key_head) * BM + o_m
        b_sum += load_tile(part, o_part * D, o_m < BM, D, BD)
    o_far = (o_row - base).to(tl.int64)
    store_tile(target, o_head * t_head + o_far * t_row, m_row, b_sum, D, BD)


def gradients(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sinks: torch.Tensor | None,
    positions: torch.Tensor | None,
    output: torch.Tensor,
    lse: torch.Tensor,
    d_output: torch.Tensor,
    d_lse: torch.Tensor,
    blocks: Blocks,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return the gradients of query, key, value (of their dtypes) and sinks (None without)."""
    query, key, value, d_output = dense(query), dense(key), dense(value), dense(d_output)
    device = query.device
    heads, length, size = query.shape
    key_heads, value_size = key.shape[0], value.shape[-1]
    group = heads // key_heads
    delta = (d_output.float() * output.float()).sum(-1) - d_lse
    d_sinks = None
    if sinks is not None:
        d_sinks = -((sinks.float()[:, None] - lse).exp() * delta).sum(1).to(sinks.dtype)
    d_query, d_key, d_value = (torch.empty_like(x) for x in (query, key, value))
    tiles = gradient_tiles(max(size, value_size), query.dtype, group)
    forward = blocks.forward_work(tiles.rows // group, device)
    backward = blocks.backward_work(tiles.keys, device)

    def parts(slots: int, height: int, width: int) -> torch.Tensor:
        return torch.empty(slots, key_heads, height, width, dtype=torch.float32, device=device)

    part_q = parts(forward.slots, tiles.rows, size)
    part_k = parts(backward.slots, tiles.keys, size)
    part_v = parts(backward.slots, tiles.keys, value_size)
    strides = [n for x in (query, key, value, d_output) for n in x.stride()[:2]]
    numbers = (length, blocks.base, scale, softcap or 0.0, window or 0)
    constants = {
        "G": group, "D": size, "DV": value_size, "BD": padded(size), "BDV": padded(value_size),
        "BM": tiles.rows, "BS": tiles.keys, "SOFTCAP": softcap is not None,
        "WINDOW": window is not None, "num_warps": tiles.warps, "num_stages": tiles.stages,
    }  # fmt: skip
    with on_device_of(query):
        if key.shape[1]:
            _blocks_query_bwd_kernel[(len(forward.items), key_heads)](
                query, key, value, d_output, lse, delta, d_query, part_q, positions, forward.items,
                *strides, *d_query.stride()[:2], *numbers, **constants,
            )  # fmt: skip
            _blocks_key_bwd_kernel[(len(backward.items), key_heads)](
                query, key, value, d_output, lse, delta, d_key, d_value, part_k, part_v, positions,
                backward.items, backward.visits, *strides, *d_key.stride()[:2],
                *d_value.stride()[:2], *numbers, **constants,
            )  # fmt: skip
        _join(d_query, part_q, forward.joins, group, blocks.base)
        _join(d_key, part_k, backward.joins, 1)
        _join(d_value, part_v, backward.joins, 1)
    return d_query, d_key, d_value, d_sinks


def _join(
    target: torch.Tensor, part: torch.Tensor, joins: torch.Tensor, group: int, base: int = 0
) -> None:
    """Write the sums of parts [slots, key heads, rows of a tile, D] where their rows belong."""
    if len(joins):
        _, key_heads, height, size = part.shape
        _sum_bwd_kernel[(len(joins), key_heads)](
            target, part, joins, *target.stride()[:2], base, G=group, D=size, BD=padded(size),
            BM=height,
        )  # fmt: skip
