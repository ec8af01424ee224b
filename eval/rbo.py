"""Rank-biased overlap of two rankings, extrapolated."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ranklens.data.errors import InvalidInputError, UsageError


def rbo_ext(a: Sequence[Hashable], b: Sequence[Hashable], p: float = 0.9) -> float:
    """Return the extrapolated rank-biased overlap of two rankings, best first, in [0, 1].

    The agreement at a depth is the share of items that both lists have down to there; depths
    weigh less by the factor ``p`` each, and the agreement seen last is taken to go on. For two
    lists of one length n, with A_d and B_d their first d items:

        (1 - p) · Σ p^(d-1) · |A_d ∩ B_d| / d  +  p^n · |A_n ∩ B_n| / n,    d = 1 … n

    Where one is shorter, of length s, it is taken to go on with its agreement at s (equation 32
    of Webber, Moffat and Zobel, "A similarity measure for indefinite rankings", TOIS 2010). Two
    empty lists are the same, 1; an empty one has 0 with any other.

    Raises UsageError for p outside (0, 1), InvalidInputError for an item that a list has twice.
    """
    if not 0 < p < 1:
        raise UsageError(f"p of rank-biased overlap must lie between 0 and 1, got {p}")
    for items in (a, b):
        if len(set(items)) != len(items):
            raise InvalidInputError("rank-biased overlap needs lists without repeated items")
    short, long = sorted((a, b), key=len)
    if not short:
        return 1.0 if not long else 0.0
    shorter, longer = len(short), len(long)
    seen_short: set[Hashable] = set()
    seen_long: set[Hashable] = set()
    total, overlap, at_end_of_short = 0.0, 0, 0
    weight = 1 - p
    for depth, item in enumerate(long, start=1):
        seen_long.add(item)
        overlap += item in seen_short
        if depth <= shorter:
            other = short[depth - 1]
            seen_short.add(other)
            overlap += other in seen_long
            at_end_of_short = overlap
        missing = at_end_of_short * max(depth - shorter, 0) / shorter
        total += weight * (overlap + missing) / depth
        weight *= p
    agreement = (overlap - at_end_of_short) / longer + at_end_of_short / shorter
    return min(total + p**longer * agreement, 1.0)
