"""Rank-biased overlap of two rankings, extrapolated."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

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
    ranks = {item: rank for rank, item in enumerate(short, start=1)}
    # An item is in both lists from the depth of its lower rank on.
    met = [max(ranks[item], rank) for rank, item in enumerate(long, start=1) if item in ranks]
    overlaps = np.bincount(met, minlength=longer + 1)[1:].cumsum()
    depths = np.arange(1, longer + 1)
    assumed = overlaps[shorter - 1] * np.maximum(depths - shorter, 0) / shorter
    total = (1 - p) * float(np.sum(p ** (depths - 1.0) * (overlaps + assumed) / depths))
    last, at_end = overlaps[-1], overlaps[shorter - 1]
    agreement = (last - at_end) / longer + at_end / shorter
    return min(float(total + p**longer * agreement), 1.0)
