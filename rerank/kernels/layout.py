"""Which row sees which keys, and how the work is cut into programs.

Both records are made once for a prompt and used by all its layers. What they hold are Python
integers, so that cutting never waits for a device; tables for kernels are made once for each
device and tile size. How a row's keys are cut depends on the layout only, never on the device
or on what else is in the call: that is what makes results repeatable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import torch

from ranklens.data.errors import UsageError

_Table = TypeVar("_Table")

_CHUNK = 1024
"""A walk is split only into parts of at least so many rows or keys."""
_MOST_SPLITS = 16
_FEW_TILES = 64
"""Tiles of one block times splits: beyond that there are programs enough without a split."""


@dataclass(frozen=True, slots=True)
class Work:
    """Tables of int32 for one launch.

    ``items``: a row per program. Programs with a slot of −1 write their result, others a part,
    and ``joins`` [first row, end, first slot, end slot] says which of the ``slots`` parts are one
    result. ``visits``: what items refer to in the backward pass.
    """

    items: torch.Tensor
    joins: torch.Tensor
    slots: int
    visits: torch.Tensor


@dataclass(frozen=True, eq=False)
class Blocks:
    """Packed blocks of a prompt: token i of a block sees keys [0, prefix) and [start, i].

    ``ranges``: (start, end, prefix) for each block, half open; together they cover [0, P) once,
    in any order. A prefix ends where its block starts or before. So a causal prompt is one block
    with prefix 0, a document one whose prefix is the instruction, a tail one whose prefix is all
    shared tokens. Where what comes before token ``base`` has keys only, they cover [base, P).
    Raises UsageError for ranges that are not so.
    """

    ranges: tuple[tuple[int, int, int], ...]
    base: int = 0
    _tables: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        ranges = tuple((int(start), int(end), int(prefix)) for start, end, prefix in self.ranges)
        object.__setattr__(self, "ranges", ranges)
        ordered = sorted(ranges)
        bounds = [self.base, *(end for _, end, _ in ordered)]
        for (start, end, prefix), before in zip(ordered, bounds, strict=False):
            if start != before or end < start:
                raise UsageError(
                    f"block [{start}, {end}) follows token {before}: blocks must cover the prompt "
                    "once, without gaps"
                )
            if not 0 <= prefix <= start:
                raise UsageError(f"block [{start}, {end}) cannot see a prefix of {prefix} tokens")

    @property
    def length(self) -> int:
        """The number of tokens, P."""
        return max((end for _, end, _ in self.ranges), default=self.base)

    def forward_work(self, height: int, device: torch.device) -> Work:
        """Return a program for each ``height`` rows of a block, or several that share its prefix.

        Items: first row, end of the block, prefix keys [from, to), own keys [from, to), slot.
        """
        return _once(
            self._tables, ("forward", height, device), lambda: self._forward(height, device)
        )

    def backward_work(self, width: int, device: torch.device) -> Work:
        """Return a program for each ``width`` keys of a block, or several that share its rows.

        Items: first key, end of the keys, visits [from, to), slot. Visits: rows [from, to), the
        end of the keys that they see, and whether they see them causally.
        """
        return _once(
            self._tables, ("backward", width, device), lambda: self._backward(width, device)
        )

    def _forward(self, height: int, device: torch.device) -> Work:
        items, joins, slot = [], [], 0
        for start, end, prefix in self.ranges:
            chunk = _chunk(prefix, _ceil(end - start, height))
            for row in range(start, end, height):
                seen = min(row + height, end)
                if chunk >= prefix:
                    items.append((row, end, 0, prefix, start, seen, -1))
                    continue
                first = slot
                for before in range(0, prefix, chunk):
                    last = before + chunk >= prefix
                    own = (start, seen) if last else (0, 0)
                    items.append((row, end, before, min(before + chunk, prefix), *own, slot))
                    slot += 1
                joins.append((row, end, first, slot))
        # The longest first, so that no long program begins when the others are done.
        items.sort(key=lambda item: (item[2] - item[3]) + (item[4] - item[5]))
        return Work(_table(items, 7, device), _table(joins, 4, device), slot, _table([], 4, device))

    def _backward(self, width: int, device: torch.device) -> Work:
        items, joins, slot = [], [], 0
        visits: list[tuple[int, int, int, int]] = []
        readers = self._readers()
        # Keys before ``base`` have no rows of their own.
        alone = [(0, self.base)] if self.base else []
        for start, end in [*alone, *((start, end) for start, end, _ in self.ranges)]:
            tiles = _ceil(end - start, width)
            for key in range(start, end, width):
                limit = min(key + width, end)
                rows = [] if start < self.base else [(key, end, limit, 1)]
                rows += [(a, b, min(seen, limit), 0) for a, b, seen in readers if seen > key]
                total = sum(b - a for a, b, _, _ in rows)
                chunk = _chunk(total, tiles)
                # Keys that nobody sees have gradients too, of 0.
                parts = list(_cut(rows, chunk)) or [[]]
                first = slot
                for part in parts:
                    number = -1 if len(parts) == 1 else slot
                    slot += number >= 0
                    items.append((key, limit, len(visits), len(visits) + len(part), number))
                    visits += part
                if len(parts) > 1:
                    joins.append((key, limit, first, slot))
        items.sort(key=lambda item: -sum(b - a for a, b, _, _ in visits[item[2] : item[3]]))
        return Work(
            _table(items, 5, device), _table(joins, 4, device), slot, _table(visits, 4, device)
        )

    def _readers(self) -> list[tuple[int, int, int]]:
        """Return rows [from, to) with the prefix that they see; neighbours with one are one."""
        found: list[tuple[int, int, int]] = []
        for start, end, prefix in sorted(self.ranges):
            if start == end or prefix == 0:
                continue
            if found and found[-1][1:] == (start, prefix):
                found[-1] = (found[-1][0], end, prefix)
            else:
                found.append((start, end, prefix))
        return found


@dataclass(frozen=True, eq=False)
class Sweep:
    """Which rows read which keys, and what of it is kept.

    Row r sees keys j < ``shared`` and, behind them, ``first[r]`` <= j <= ``last[r]`` (its tail up
    to itself; none where last < first). It belongs to ``groups[r]``, counted from 0, and counts
    ``row_weights[r]`` there: 1 / (rows of the group that count), or 0. Rows of a group are
    neighbours. ``spans``: half-open ranges of shared keys, one a document, none overlapping
    another. Raises UsageError for what is not so.
    """

    groups: tuple[int, ...]
    row_weights: tuple[float, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    shared: int
    spans: tuple[tuple[int, int], ...] = ()
    _tables: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("groups", "row_weights", "first", "last"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if len(getattr(self, name)) != len(self.groups):
                raise UsageError(
                    f"{name} has {len(getattr(self, name))} rows, groups has {self.rows}"
                )
        changes = [group for before, group in pairwise((-1, *self.groups)) if group != before]
        if changes != list(range(len(changes))):
            raise UsageError(f"rows of a group must be neighbours, in order from 0: {changes}")
        spans = tuple((int(start), int(end)) for start, end in self.spans)
        object.__setattr__(self, "spans", spans)
        ordered = sorted(span for span in spans if span[0] != span[1])
        for (_, before), (start, end) in pairwise([(0, 0), *ordered]):
            if start < before or end < start or end > self.shared:
                raise UsageError(
                    f"span [{start}, {end}) overlaps another or leaves the shared keys, "
                    f"[0, {self.shared})"
                )

    @classmethod
    def of_tails(
        cls,
        shared: int,
        lengths: Sequence[int],
        counted: Sequence[tuple[int, int]],
        spans: Sequence[tuple[int, int]] = (),
    ) -> Sweep:
        """Return the sweep of tails that stand one after the other behind ``shared`` keys.

        ``lengths``: their tokens; ``counted``: for each tail its rows [from, to) that count,
        counted from the tail's own start.
        """
        groups: list[int] = []
        weights: list[float] = []
        first: list[int] = []
        start = shared
        for number, (length, (a, b)) in enumerate(zip(lengths, counted, strict=True)):
            groups += [number] * length
            weights += [1 / (b - a) if a <= row < b else 0.0 for row in range(length)]
            first += [start] * length
            start += length
        last = range(shared, start)
        return cls(tuple(groups), tuple(weights), tuple(first), tuple(last), shared, tuple(spans))

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.groups)

    @property
    def count(self) -> int:
        """The number of groups."""
        return self.groups[-1] + 1 if self.groups else 0

    def weights(self, device: torch.device) -> torch.Tensor:
        """Return the row weights, float32 [rows]."""
        return _once(
            self._tables,
            ("weights", device),
            lambda: torch.tensor(self.row_weights, device=device).float(),
        )

    def bounds(self, device: torch.device) -> torch.Tensor:
        """Return group, first and last of each row, int32 [3, rows]."""
        table = (self.groups, self.first, self.last)
        return _once(
            self._tables,
            ("bounds", device),
            lambda: torch.tensor(table, dtype=torch.int32, device=device).view(3, self.rows),
        )

    def row_tiles(self, height: int, device: torch.device) -> torch.Tensor:
        """Return tiles of one group's rows: first row, end, group, own keys [from, to)."""

        def make() -> torch.Tensor:
            tiles = []
            for group, (start, end) in enumerate(self._group_rows(counted=False)):
                for row in range(start, end, height):
                    rows = range(row, min(row + height, end))
                    low = max(self.shared, min(self.first[r] for r in rows))
                    high = max(self.last[r] + 1 for r in rows)
                    tiles.append((row, rows.stop, group, low, max(low, high)))
            return _table(tiles, 5, device)

        return _once(self._tables, ("rows", height, device), make)

    def counted_tiles(self, height: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tiles of rows that count [first row, end], and where each group's tiles begin."""

        def make() -> tuple[torch.Tensor, torch.Tensor]:
            tiles: list[tuple[int, int]] = []
            starts = [(0,)]
            for start, end in self._group_rows(counted=True):
                tiles += [(row, min(row + height, end)) for row in range(start, end, height)]
                starts.append((len(tiles),))
            return _table(tiles, 2, device), _table(starts, 1, device)

        return _once(self._tables, ("counted", height, device), make)

    def key_tiles(self, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tiles of shared keys [from, to), none in two documents, and each document's tiles.

        A span without keys has no tiles.
        """

        def make() -> tuple[torch.Tensor, torch.Tensor]:
            filled = [span for span in self.spans if span[0] < span[1]]
            edges = sorted({0, self.shared, *(edge for span in filled for edge in span)})
            tiles: list[tuple[int, int]] = []
            at = {}
            for start, end in pairwise(edges):
                at[start] = len(tiles)
                tiles += [(key, min(key + width, end)) for key in range(start, end, width)]
            at[self.shared] = len(tiles)
            owned = [(at[start], at[end]) if start < end else (0, 0) for start, end in self.spans]
            return _table(tiles, 2, device), _table(owned, 2, device)

        return _once(self._tables, ("keys", width, device), make)

    def document_of_key(self, device: torch.device) -> torch.Tensor:
        """Return each shared key's document, −1 where it is in none, int64 [shared]."""

        def make() -> torch.Tensor:
            owner = torch.full((self.shared,), -1)
            for number, (start, end) in enumerate(self.spans):
                owner[start:end] = number
            return owner.to(device)

        return _once(self._tables, ("owner", device), make)

    def splits(self, tiles: int) -> int:
        """Return into how many parts a walk over the shared keys is cut."""
        return max(1, _ceil(self.shared, max(1, _chunk(self.shared, tiles))))

    def _group_rows(self, *, counted: bool) -> list[tuple[int, int]]:
        """Return the rows [from, to) of each group, or from its first counted to its last."""
        found = []
        for group in range(self.count):
            rows = [
                row
                for row, (owner, weight) in enumerate(
                    zip(self.groups, self.row_weights, strict=True)
                )
                if owner == group and (weight or not counted)
            ]
            found.append((rows[0], rows[-1] + 1) if rows else (0, 0))
        return found


def _once(tables: dict[Any, Any], name: Any, make: Callable[[], _Table]) -> _Table:
    """Return the table of a name, made the first time."""
    if name not in tables:
        tables[name] = make()
    found: _Table = tables[name]
    return found


def _ceil(number: int, by: int) -> int:
    return -(-number // by)


def _chunk(length: int, tiles: int) -> int:
    """Return how much of a walk of ``length`` one program takes, when ``tiles`` walk it."""
    splits = max(1, min(_MOST_SPLITS, length // _CHUNK, _FEW_TILES // max(1, tiles)))
    return _ceil(length, splits)


def _cut(
    rows: Iterable[tuple[int, int, int, int]], most: int
) -> Iterable[list[tuple[int, int, int, int]]]:
    """Cut ranges of rows into parts of ``most`` rows, the last of what is left."""
    part: list[tuple[int, int, int, int]] = []
    room = most
    for start, end, limit, causal in rows:
        while start < end:
            taken = min(room, end - start)
            part.append((start, start + taken, limit, causal))
            start, room = start + taken, room - taken
            if room == 0:
                yield part
                part, room = [], most
    if part:
        yield part


def _table(rows: Sequence[tuple[int, ...]], columns: int, device: torch.device) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32).view(len(rows), columns).to(device)
