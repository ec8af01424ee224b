"""Documents side by side in one prompt: their tokens, places and positions.

Where documents share positions their order in the prompt means nothing, so they are packed in an
order of their own, by length and then by tokens: the same documents are the same computation in
whatever order they come, to the last bit, and neighbours in memory are of like length. Equal
documents stand there each, and are all read where the first one stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.rerank.profile import LayoutChoice

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """A document in its frame: tokens, and the half-open range of those that are read."""

    ids: list[int]
    span: Range


@dataclass(frozen=True, slots=True)
class Packed:
    """The shared part of a prompt; ``spans`` in the order of the pieces. See ``PromptLayout``."""

    ids: list[int]
    spans: tuple[Range, ...]
    blocks: tuple[Range, ...] = ()
    positions: tuple[int, ...] | None = None
    places: tuple[int, ...] | None = None
    tail_start: int | None = None


def pack(opening: Sequence[int], pieces: Sequence[Piece], choice: LayoutChoice) -> Packed:
    """Put pieces behind the opening of a prompt."""
    shared_positions = choice.positions == "shared"
    order = list(range(len(pieces)))
    if shared_positions:
        order.sort(key=lambda place: (len(pieces[place].ids), pieces[place].ids))
    ids = list(opening)
    positions = list(range(len(opening)))
    spans: list[Range] = [(0, 0)] * len(pieces)
    blocks = []
    before: Piece | None = None
    for place in order:
        piece, start = pieces[place], len(ids)
        ids += piece.ids
        positions += range(len(opening), len(opening) + len(piece.ids))
        blocks.append((start, len(ids)))
        if shared_positions and before is not None and before.ids == piece.ids:
            spans[place] = spans[order[len(blocks) - 2]]
        else:
            spans[place] = (start + piece.span[0], start + piece.span[1])
        before = piece
    if choice.attend == "causal":
        return Packed(ids, tuple(spans))
    # A block without tokens has nothing to compute.
    whole = tuple((start, end) for start, end in blocks if end > start)
    if choice.positions == "sequential":
        return Packed(ids, tuple(spans), whole)
    if choice.positions == "moved":
        places = tuple(range(len(ids)))
        return Packed(ids, tuple(spans), whole, tuple(positions), places, len(ids))
    tail_start = max(positions, default=-1) + 1
    if choice.tail_position is not None:
        tail_start = choice.tail_position
    return Packed(ids, tuple(spans), whole, tuple(positions), None, tail_start)
