"""How much alike two runs' rankings are, whatever their documents are worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.data.qrels import Qrels
from ranklens.eval.policy import Orders
from ranklens.eval.rbo import rbo_ext

TOP = 10
PERSISTENCE = 0.9
# Below, a document weighs less than 0.9^100 = 0.00003.
RBO_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Overlap:
    """Means over the ``queries`` that both runs have.

    ``jaccard``: of the first 10 documents of both, those in common over those in either.
    ``rbo``: rank-biased overlap, p = 0.9, of the first 100.
    """

    jaccard: float
    rbo: float
    queries: int


def overlap(a: Orders, b: Orders) -> Overlap:
    """Return the overlap of two runs, query id → document ids, best first; they share a query."""
    both = [query_id for query_id in a if query_id in b]
    return Overlap(
        math.fsum(jaccard(a[q], b[q]) for q in both) / len(both),
        math.fsum(rbo(a[q], b[q]) for q in both) / len(both),
        len(both),
    )


def jaccard(a: Sequence[str], b: Sequence[str], top: int = TOP) -> float:
    """Return the Jaccard index of two rankings' first documents; 1 where both are empty."""
    first, second = set(a[:top]), set(b[:top])
    return len(first & second) / len(first | second) if first or second else 1.0


def rbo(a: Sequence[str], b: Sequence[str]) -> float:
    """Return the rank-biased overlap of two rankings' first 100 documents."""
    return rbo_ext(a[:RBO_DEPTH], b[:RBO_DEPTH], PERSISTENCE)


def unjudged_at(qrels: Qrels, orders: Orders, top: int = TOP) -> float:
    """Return the mean share of a run's first documents that have no judgement."""
    shares = [
        sum(doc_id not in qrels[q] for doc_id in docs[:top]) / len(docs[:top])
        for q, docs in orders.items()
        if docs
    ]
    return math.fsum(shares) / len(shares) if shares else 0.0
