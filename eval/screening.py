"""Measures of screening, where every relevant document must be found (systematic reviews).

They are about a pool that is read from the top until enough is found. The pool of a query is
what its ranking holds and what is judged. What is judged and not in the ranking stands behind it,
the relevant documents last: nothing is gained by not retrieving them.
"""

from __future__ import annotations

import math

from ranklens.eval.ranked_measures import Ranked, relevant_count


def wss(ranked: Ranked, recall: float, rel: int) -> float:
    """Return work saved over sampling at a recall: 1 − read/pool − (1 − recall).

    ``read`` is the rank at which this share of the relevant documents (rounded up) is found
    (Cohen et al. 2006). It is 0 for an order at random, at most ``recall``, negative for less
    than nothing saved, and 0 for a query without a relevant document.
    """
    relevant = relevant_count(ranked, rel)
    if not relevant:
        return 0.0
    # 0.95 · 20 is 19, not the next number above it.
    needed = math.ceil(recall * relevant - 1e-9)
    return recall - _read(ranked, needed, rel) / _pool(ranked)


def last_relevant(ranked: Ranked, rel: int) -> float:
    """Return the rank of the last relevant document of the pool; lower is better.

    0 for a query without a relevant document.
    """
    relevant = relevant_count(ranked, rel)
    return float(_read(ranked, relevant, rel)) if relevant else 0.0


def _pool(ranked: Ranked) -> int:
    unjudged = sum(grade is None for grade in ranked.grades)
    return unjudged + len(ranked.judged)


def _read(ranked: Ranked, needed: int, rel: int) -> int:
    found = 0
    for rank, relevant in enumerate(ranked.relevant(rel), start=1):
        found += relevant
        if relevant and found == needed:
            return rank
    return _pool(ranked) - (relevant_count(ranked, rel) - needed)
