"""What the forward and the backward kernels of column mass share."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from ranklens.rerank.kernels.layout import Sweep
from ranklens.rerank.kernels.tile import dense, gradient_tiles, mass_tiles, padded


@triton.jit
def visible(
    o_row, o_key, m_row, m_key, bounds, rows, shared, positions, row_positions, counted, window,
    WINDOW: tl.constexpr, COUNTED: tl.constexpr,
):  # fmt: skip
    """Return which of the keys o_key [BS] the rows o_row [BM] see, bool [BM, BS]."""
    b_first = tl.load(bounds + rows + o_row, mask=m_row, other=0)[:, None]
    b_last = tl.load(bounds + 2 * rows + o_row, mask=m_row, other=-1)[:, None]
    b_key = o_key[None, :]
    m_seen = (b_key < shared) | ((b_key >= b_first) & (b_key <= b_last))
    if COUNTED:
        m_key = m_key & (tl.load(counted + o_key, mask=m_key, other=0) != 0)
    if WINDOW:
        b_here = tl.load(row_positions + o_row, mask=m_row, other=0)[:, None]
        b_there = tl.load(positions + o_key, mask=m_key, other=0)[None, :]
        m_seen = m_seen & (b_here - b_there < window)
    return m_seen & m_row[:, None] & m_key[None, :]


@dataclass(frozen=True, slots=True)
class HeadTables:
    """The heads read, by key head: their numbers, places among those read, and weights.

    ``heads``, ``places`` int32 and ``weights`` float32, all [key heads read, GP], GP a power of
    two; −1 and 0 where a key head has fewer.
    """

    heads: torch.Tensor
    places: torch.Tensor
    weights: torch.Tensor


@functools.lru_cache(maxsize=1024)
def head_tables(
    read: tuple[int, ...], weights: tuple[float, ...], group: int, device: torch.device
) -> HeadTables:
    """Return the tables of heads and their weights, ``group`` of all heads to a key head.

    Kept, since a layer's heads are the same for every query.
    """
    by_key_head: dict[int, list[int]] = {}
    for place, head in enumerate(read):
        by_key_head.setdefault(head // group, []).append(place)
    most = triton.next_power_of_2(max((len(found) for found in by_key_head.values()), default=1))
    shape = (len(by_key_head), most)
    heads = torch.full(shape, -1, dtype=torch.int32)
    places, of_heads = heads.clone(), torch.zeros(shape)
    for row, found in enumerate(by_key_head.values()):
        heads[row, : len(found)] = torch.tensor([read[place] for place in found])
        places[row, : len(found)] = torch.tensor(found)
        of_heads[row, : len(found)] = torch.tensor([weights[place] for place in found])
    return HeadTables(heads.to(device), places.to(device), of_heads.to(device))


@dataclass(frozen=True, slots=True)
class Problem:
    """One call of column mass: its tensors and the arguments that all its kernels take.

    ``weights``: of the heads that are ``read``. ``masks``: positions, row_positions and counted;
    ``numbers``: scale, softcap, window; ``forward`` and ``backward``: tile sizes and flags.
    """

    query: Any
    key: Any
    sweep: Sweep
    read: tuple[int, ...]
    weights: tuple[float, ...]
    tables: HeadTables
    masks: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
    numbers: tuple[float, float, int]
    forward: dict[str, Any]
    backward: dict[str, Any]

    @classmethod
    def make(
        cls,
        query: torch.Tensor,
        key: torch.Tensor,
        sweep: Sweep,
        read: tuple[int, ...],
        head_weights: torch.Tensor | None,
        scale: float,
        softcap: float | None,
        window: int | None,
        positions: torch.Tensor | None,
        row_positions: torch.Tensor | None,
        counted: torch.Tensor | None,
    ) -> Problem:
        """Return the problem of a call; ``of`` gives it its query and key."""
        device, size = query.device, query.shape[-1]
        group = query.shape[0] // key.shape[0]
        every = [1.0] * query.shape[0] if head_weights is None else head_weights.tolist()
        weights = tuple(float(every[head]) for head in read)
        tables = head_tables(read, weights, group, device)
        most = tables.heads.shape[1]
        forward, backward = (
            {
                "G": group, "GP": most, "D": size, "BD": padded(size), "BM": tiles.rows,
                "BS": tiles.keys, "SOFTCAP": softcap is not None, "WINDOW": window is not None,
                "COUNTED": counted is not None, "num_warps": tiles.warps,
                "num_stages": tiles.stages,
            }
            for tiles in (rule(size, query.dtype, most) for rule in (mass_tiles, gradient_tiles))
        )  # fmt: skip
        masks = (positions, row_positions, None if counted is None else counted.to(torch.uint8))
        numbers = (scale, softcap or 0.0, window or 0)
        return cls(None, None, sweep, read, weights, tables, masks, numbers, forward, backward)

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of heads and rows, of the query and then of the key."""
        return (*self.query.stride()[:2], *self.key.stride()[:2])

    def of(self, query: torch.Tensor | None, key: torch.Tensor | None) -> Problem:
        """Return the problem with these tensors; without, for autograd keeps them itself."""
        if query is None or key is None:
            return dataclasses.replace(self, query=None, key=None)
        return dataclasses.replace(self, query=dense(query), key=dense(key))


def rows_of_a_head(constants: dict[str, Any]) -> int:
    """Return how many rows of each head a tile has."""
    return int(constants["BM"]) // int(constants["GP"])
