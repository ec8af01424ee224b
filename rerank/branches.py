"""The tails of a pass, row by row: what they have in common is computed once.

Tails that begin with the same tokens (an instruction before query and content-free query) have
the same states there, since a token sees the shared part and its own tail before it. These rows
stand first, and every tail sees them; then each tail's own follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.rerank.openings import common_opening
from ranklens.rerank.prompt import Tail

OPENING = 1
"""The branch of the rows that every tail sees."""


@dataclass(frozen=True, slots=True)
class Branches:
    """Rows of the tails, in the order in which they are computed.

    ``ids`` are their tokens; ``offsets`` their positions from the start of a tail; ``numbers``
    the branch that they are of, 1 for the common opening and one from 2 for each tail;
    ``weights``, for each tail, what each row counts in it: 1 / (rows of the tail that are read),
    or 0.
    """

    ids: list[int]
    offsets: list[int]
    numbers: list[int]
    weights: list[list[float]]

    def row(self, tail: int, offset: int) -> int:
        """Return which of the rows has the token ``offset`` of a tail (from 0)."""
        for number in (OPENING, OPENING + 1 + tail):
            for row, found in enumerate(zip(self.numbers, self.offsets, strict=True)):
                if found == (number, offset):
                    return row
        raise IndexError(f"tail {tail} has no token {offset}")

    @classmethod
    def of(cls, tails: Sequence[Tail], *, apart: bool = False) -> Branches:
        """Arrange the rows of tails; ``apart`` repeats for each what they have in common."""
        alone = apart or len(tails) < 2
        opening = 0 if alone else common_opening([tail.ids for tail in tails])
        rows = [(OPENING, offset) for offset in range(opening)]
        for number, tail in enumerate(tails, start=OPENING + 1):
            rows += [(number, offset) for offset in range(opening, len(tail.ids))]
        by_number = dict(enumerate(tails, start=OPENING + 1))
        return cls(
            [by_number[max(number, OPENING + 1)].ids[at] for number, at in rows],
            [offset for _, offset in rows],
            [number for number, _ in rows],
            [
                [
                    1 / (tail.rows[1] - tail.rows[0])
                    if number in (OPENING, own) and tail.rows[0] <= offset < tail.rows[1]
                    else 0.0
                    for number, offset in rows
                ]
                for own, tail in by_number.items()
            ],
        )
