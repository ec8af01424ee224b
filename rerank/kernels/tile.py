"""What the Triton kernels share: tile sizes, loads, logits.

Logits are kept in units of log 2, so that every exponential is one exp2.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@dataclass(frozen=True, slots=True)
class Tiles:
    """How many rows (heads of a group folded in) and keys a tile has, and a launch's settings."""

    rows: int
    keys: int
    warps: int
    stages: int


def attention_tiles(size: int, dtype: torch.dtype, group: int) -> Tiles:
    """Return the tiles of block attention for heads of ``size``, ``group`` of them a key head."""
    wide = padded(size)
    if dtype == torch.float32:
        # No tensor cores: what a tile holds are registers.
        tiles = Tiles(32, 32, 4 if wide <= 64 else 8, 1)
    elif wide <= 64:
        tiles = Tiles(128, 64, 4, 3)
    elif wide <= 128:
        tiles = Tiles(128, 64, 8, 2)
    else:
        tiles = Tiles(64, 32, 8, 2)
    return _at_least(tiles, group)


def gradient_tiles(size: int, dtype: torch.dtype, group: int) -> Tiles:
    """Return the tiles of the backward passes, which hold more tiles at a time."""
    wide = padded(size)
    if dtype == torch.float32:
        tiles = Tiles(32, 32, 4 if wide <= 64 else 8, 1)
    elif wide <= 128:
        tiles = Tiles(64, 64, 4 if wide <= 64 else 8, 2)
    else:
        tiles = Tiles(32, 32, 8, 1)
    return _at_least(tiles, group)


def mass_tiles(size: int, dtype: torch.dtype, group: int) -> Tiles:
    """Return the tiles of column mass: few rows read, and each tile of keys walks all of them."""
    wide = padded(size)
    if dtype == torch.float32:
        tiles = Tiles(32, 32, 4 if wide <= 64 else 8, 1)
    elif wide <= 128:
        tiles = Tiles(64, 128, 8, 2)
    else:
        tiles = Tiles(64, 64, 8, 1)
    return _at_least(tiles, group)


def padded(size: int) -> int:
    """Return the power of two, 16 at least, in which a head of ``size`` is computed."""
    return max(16, int(triton.next_power_of_2(size)))


def on_device_of(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Make the tensor's device the one that kernels are launched on."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor with its last dimension contiguous, which the kernels' loads take."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _at_least(tiles: Tiles, group: int) -> Tiles:
    rows = max(tiles.rows, triton.next_power_of_2(group))
    return Tiles(rows, tiles.keys, tiles.warps, tiles.stages)


@triton.jit
def load_tile(p_first, o_start, m_start, D: tl.constexpr, BD: tl.constexpr):
    """Load D elements from each of the offsets o_start [B], as [B, BD]; 0 where masked."""
    o_d = tl.arange(0, BD)
    m_tile = m_start[:, None]
    if D != BD:
        m_tile = m_tile & (o_d < D)[None, :]
    return tl.load(p_first + o_start[:, None] + o_d[None, :], mask=m_tile, other=0.0)


@triton.jit
def store_tile(p_first, o_start, m_start, b_tile, D: tl.constexpr, BD: tl.constexpr):
    """Store the first D columns of b_tile [B, BD] at the offsets o_start [B]."""
    o_d = tl.arange(0, BD)
    m_tile = m_start[:, None]
    if D != BD:
        m_tile = m_tile & (o_d < D)[None, :]
    p_tile = p_first + o_start[:, None] + o_d[None, :]
    tl.store(p_tile, b_tile.to(p_first.dtype.element_ty), mask=m_tile)


@triton.jit
def logits(b_q, b_k, scale, softcap, SOFTCAP: tl.constexpr):
    """cap(q · k · scale) / ln 2 for b_q [BM, BD] and b_k [BS, BD], float32 [BM, BS]."""
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale
    if SOFTCAP:
        b_s = softcap * _tanh(b_s / softcap)
    return b_s * LOG2E


@triton.jit
def cap_slope(b_s, softcap, SOFTCAP: tl.constexpr):
    """d cap(x) / dx = 1 − (cap(x) / c)², from what ``logits`` returned."""
    b_slope = tl.full(b_s.shape, 1.0, tl.float32)
    if SOFTCAP:
        b_tanh = b_s * (LN2 / softcap)
        b_slope = 1.0 - b_tanh * b_tanh
    return b_slope


@triton.jit
def _tanh(b_x):
    """tanh x = sign x · (1 − e) / (1 + e), e = exp(−2 |x|); a series where 1 − e would cancel."""
    b_e = tl.exp2(tl.abs(b_x) * (-2.0 * LOG2E))
    b_far = (1.0 - b_e) / (1.0 + b_e)
    b_far = tl.where(b_x < 0, -b_far, b_far)
    b_xx = b_x * b_x
    b_near = -0.05396825396825397 + b_xx * 0.021869488536155203
    b_near = 0.13333333333333333 + b_xx * b_near
    b_near = -0.3333333333333333 + b_xx * b_near
    b_near = b_x * (1.0 + b_xx * b_near)
    return tl.where(tl.abs(b_x) < 0.25, b_near, b_far)


@triton.jit
def finite(b_max):
    """Return b_max with 0 for −inf, so that the exponential of a masked logit is 0, not NaN."""
    return tl.where(b_max == float("-inf"), 0.0, b_max)
