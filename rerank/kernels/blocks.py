"""Block attention: packed blocks that see a shared prefix in full and themselves causally.

    s[h, i, j] = cap(q[h, i] · k[h / G, j] · scale)
    o[h, i]    = Σ_j exp(s[h, i, j] − LSE[h, i]) v[h / G, j]
    LSE[h, i]  = log(Σ_j exp s[h, i, j] + exp sink[h])

over j in [0, prefix) and [start, i] of i's block. A program takes rows of one block, those of
the G heads that share a key head folded into one tile, so that a key tile is loaded once for
all of them. Where few rows see a long prefix several programs share it; their parts are joined
in order. Shapes: query [heads, rows, D], key [key heads, P, D], value [key heads, P, Dv]; rows
are the tokens from ``blocks.base`` on.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from ranklens.rerank.kernels.blocks_grad import gradients
from ranklens.rerank.kernels.layout import Blocks
from ranklens.rerank.kernels.reference import Attended
from ranklens.rerank.kernels.tile import (
    LN2,
    LOG2E,
    attention_tiles,
    dense,
    finite,
    load_tile,
    logits,
    on_device_of,
    padded,
    store_tile,
)

_VARYING = ["length", "base", "window"]


@triton.jit
def _attend(
    b_acc, b_max, b_sum, b_q, o_row, m_row, b_place, p_key, p_value, k_row, v_row, positions,
    start, end, scale, softcap, window,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BS: tl.constexpr,
    CAUSAL: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Take keys [start, end) into the running softmax: acc ← acc · 2^(m − m') + 2^(s − m') v."""
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
            b_s = logits(b_q, b_k, scale, softcap, SOFTCAP)  # [BM, BS]
            b_s = tl.where(m_seen, b_s, float("-inf"))
            b_new = tl.maximum(b_max, tl.max(b_s, 1))
            b_base = finite(b_new)
            b_p = tl.exp2(b_s - b_base[:, None])
            b_shrink = tl.exp2(b_max - b_base)
            b_sum = b_sum * b_shrink + tl.sum(b_p, 1)
            b_v = load_tile(p_value, o_far * v_row, m_key, DV, BDV)  # [BS, BDV]
            b_acc = b_acc * b_shrink[:, None]
            b_acc += tl.dot(b_p.to(b_v.dtype), b_v, input_precision="ieee")
            b_max = b_new
    return b_acc, b_max, b_sum


@triton.jit(do_not_specialize=_VARYING)
def _blocks_fwd_kernel(
    query, key, value, output, lse, part, part_lse, sinks, positions, items,
    q_head, q_row, k_head, k_row, v_head, v_row, out_head, out_row, length, base,
    scale, softcap, window,
    G: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BS: tl.constexpr,
    SOFTCAP: tl.constexpr, WINDOW: tl.constexpr, SINKS: tl.constexpr,
):  # fmt: skip
    """o = Σ_j 2^(s_j − m) v_j / Σ_j 2^(s_j − m), LSE = ln 2 · (m + log2 Σ_j 2^(s_j − m))."""
    p_item = items + tl.program_id(0).to(tl.int64) * 7
    i_key_head = tl.program_id(1).to(tl.int64)
    first, end = tl.load(p_item), tl.load(p_item + 1)
    prefix_from, prefix_to = tl.load(p_item + 2), tl.load(p_item + 3)
    own_from, own_to = tl.load(p_item + 4), tl.load(p_item + 5)
    slot = tl.load(p_item + 6).to(tl.int64)

    # Row m of the tile is head m % G at token m // G; what is left of BM stays empty. Queries
    # begin with the token ``base``, keys with the first.
    o_m = tl.arange(0, BM)
    o_row = first + o_m // G
    o_head = i_key_head * G + o_m % G  # [BM]
    m_row = (o_m < BM // G * G) & (o_row < end)
    o_far = (o_row - base).to(tl.int64)
    b_q = load_tile(query, o_head * q_head + o_far * q_row, m_row, D, BD)  # [BM, BD]
    b_place = o_row
    if WINDOW:
        b_place = tl.load(positions + o_row, mask=m_row, other=0)

    b_acc = tl.full([BM, BDV], 0.0, tl.float32)
    b_max = tl.full([BM], float("-inf"), tl.float32)
    b_sum = tl.full([BM], 0.0, tl.float32)
    p_key, p_value = key + i_key_head * k_head, value + i_key_head * v_head
    b_acc, b_max, b_sum = _attend(
        b_acc, b_max, b_sum, b_q, o_row, m_row, b_place, p_key, p_value, k_row, v_row, positions,
        prefix_from, prefix_to, scale, softcap, window,
        D, DV, BD, BDV, BS, False, SOFTCAP, WINDOW,
    )  # fmt: skip
    b_acc, b_max, b_sum = _attend(
        b_acc, b_max, b_sum, b_q, o_row, m_row, b_place, p_key, p_value, k_row, v_row, positions,
        own_from, own_to, scale, softcap, window,
        D, DV, BD, BDV, BS, True, SOFTCAP, WINDOW,
    )  # fmt: skip

    if slot < 0:
        if SINKS:
            b_sink = tl.load(sinks + o_head, mask=m_row, other=0.0).to(tl.float32) * LOG2E
            b_new = tl.maximum(b_max, b_sink)
            b_shrink = tl.exp2(b_max - b_new)
            b_acc = b_acc * b_shrink[:, None]
            b_sum = b_sum * b_shrink + tl.exp2(b_sink - b_new)
            b_max = b_new
        b_sum = tl.where(m_row, b_sum, 1.0)
        o_out = o_head * out_head + o_far * out_row
        store_tile(output, o_out, m_row, b_acc / b_sum[:, None], DV, BDV)
        tl.store(lse + o_head * length + o_far, (b_max + tl.log2(b_sum)) * LN2, mask=m_row)
    else:
        # A part that sees nothing, all of it beyond a window, has a sum of 0 and counts nothing.
        b_whole = tl.where(b_sum == 0, 1.0, b_sum)
        o_part = (slot * tl.num_programs(1) + i_key_head) * BM + o_m
        m_part = o_m < BM
        store_tile(part, o_part * DV, m_part, b_acc / b_whole[:, None], DV, BDV)
        tl.store(part_lse + o_part, tl.where(b_sum == 0, float("-inf"), b_max + tl.log2(b_whole)))


@triton.jit(do_not_specialize=["length", "base"])
def _join_fwd_kernel(
    output, lse, part, part_lse, sinks, joins, out_head, out_row, length, base,
    G: tl.constexpr, DV: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, SINKS: tl.constexpr,
):  # fmt: skip
    """LSE = log Σ_n exp LSE_n (+ exp sink), o = Σ_n exp(LSE_n − LSE) o_n, n in order."""
    p_join = joins + tl.program_id(0).to(tl.int64) * 4
    i_key_head = tl.program_id(1).to(tl.int64)
    first, end = tl.load(p_join), tl.load(p_join + 1)
    slot_from, slot_to = tl.load(p_join + 2), tl.load(p_join + 3)
    o_m = tl.arange(0, BM)
    o_row = first + o_m // G
    o_head = i_key_head * G + o_m % G  # [BM]
    m_row = (o_m < BM // G * G) & (o_row < end)
    m_part = o_m < BM
    b_max = tl.full([BM], float("-inf"), tl.float32)
    if SINKS:
        b_max = tl.load(sinks + o_head, mask=m_row, other=0.0).to(tl.float32) * LOG2E
    b_sum = tl.where(b_max == float("-inf"), 0.0, 1.0)
    b_acc = tl.full([BM, BDV], 0.0, tl.float32)
    for slot in range(slot_from, slot_to):
        o_part = (slot * tl.num_programs(1) + i_key_head) * BM + o_m
        b_part_lse = tl.load(part_lse + o_part)  # [BM]
        b_part = load_tile(part, o_part * DV, m_part, DV, BDV)  # [BM, BDV]
        b_new = tl.maximum(b_max, b_part_lse)
        b_base = finite(b_new)
        b_shrink, b_share = tl.exp2(b_max - b_base), tl.exp2(b_part_lse - b_base)
        b_acc = b_acc * b_shrink[:, None] + b_part * b_share[:, None]
        b_sum = b_sum * b_shrink + b_share
        b_max = b_new
    b_sum = tl.where(m_row, b_sum, 1.0)
    o_far = (o_row - base).to(tl.int64)
    store_tile(output, o_head * out_head + o_far * out_row, m_row, b_acc / b_sum[:, None], DV, BDV)
    tl.store(lse + o_head * length + o_far, (b_max + tl.log2(b_sum)) * LN2, mask=m_row)


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sinks: torch.Tensor | None,
        blocks: Blocks,
        scale: float,
        softcap: float | None,
        window: int | None,
        positions: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output, lse = _forward(query, key, value, sinks, blocks, scale, softcap, window, positions)
        ctx.save_for_backward(query, key, value, sinks, positions, output, lse)
        ctx.settings = (blocks, scale, softcap, window)
        return output, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: torch.Tensor, d_lse: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, sinks, positions, output, lse = ctx.saved_tensors
        blocks, scale, softcap, window = ctx.settings
        found = gradients(
            query, key, value, sinks, positions, output, lse, d_output, d_lse,
            blocks, scale, softcap, window,
        )  # fmt: skip
        return (*found, None, None, None, None, None)


def _forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sinks: torch.Tensor | None,
    blocks: Blocks,
    scale: float,
    softcap: float | None,
    window: int | None,
    positions: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return output [heads, P, Dv], laid out [P, heads, Dv] as layers want it, and LSE."""
    query, key, value = dense(query), dense(key), dense(value)
    heads, length, size = query.shape
    key_heads, value_size = key.shape[0], value.shape[-1]
    group = heads // key_heads
    tiles = attention_tiles(max(size, value_size), query.dtype, group)
    work = blocks.forward_work(tiles.rows // group, query.device)
    output = torch.empty(
        length, heads, value_size, dtype=value.dtype, device=value.device
    ).transpose(0, 1)
    lse = torch.empty(heads, length, dtype=torch.float32, device=query.device)
    shape = (work.slots, key_heads, tiles.rows)
    part = torch.empty(*shape, value_size, dtype=torch.float32, device=query.device)
    part_lse = torch.empty(shape, dtype=torch.float32, device=query.device)
    constants = {
        "G": group, "DV": value_size, "BDV": padded(value_size), "BM": tiles.rows,
        "SINKS": sinks is not None, "num_warps": tiles.warps,
    }  # fmt: skip
    with on_device_of(query):
        if len(work.items):
            _blocks_fwd_kernel[(len(work.items), key_heads)](
                query, key, value, output, lse, part, part_lse, sinks, positions, work.items,
                *query.stride()[:2], *key.stride()[:2], *value.stride()[:2], *output.stride()[:2],
                length, blocks.base, scale, softcap or 0.0, window or 0,
                D=size, BD=padded(size), BS=tiles.keys, SOFTCAP=softcap is not None,
                WINDOW=window is not None, num_stages=tiles.stages, **constants,
            )  # fmt: skip
        if len(work.joins):
            _join_fwd_kernel[(len(work.joins), key_heads)](
                output, lse, part, part_lse, sinks, work.joins, *output.stride()[:2], length,
                blocks.base, **constants,
            )  # fmt: skip
    return output, lse


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
    found = _BlockAttention.apply(
        query, key, value, sinks, blocks, scale, softcap, window, positions
    )
    return Attended(*found)
