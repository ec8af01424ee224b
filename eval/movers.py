"""Which queries two runs differ in, and by which documents."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ranklens.data.qrels import Qrels
from ranklens.data.runs import Run
from ranklens.eval.overlap import TOP, jaccard, rbo
from ranklens.eval.policy import DEFAULT, Policy

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Mover:
    """A document whose rank within the first k, or whose being there, differs.

    ``grade`` is None for an unjudged document, a rank None where the run lacks the document.
    ``contribution`` is what the document adds to the query's difference in nDCG@k.
    """

    doc_id: str
    grade: int | None
    rank: int | None
    rank_against: int | None
    contribution: float


@dataclass(frozen=True, slots=True)
class QueryChange:
    """One query in both runs: its values, and the documents that moved most.

    ``unjudged`` and ``unjudged_against`` count unjudged documents among the first k.
    """

    query_id: str
    value: float
    against: float
    jaccard: float
    rbo: float
    unjudged: int
    unjudged_against: int
    movers: tuple[Mover, ...]

    @property
    def difference(self) -> float:
        """The run's value minus that of the run it is held against."""
        return self.value - self.against


def cutoff(measure: str) -> int:
    """Return the k of a measure such as nDCG@20 or ndcg_cut_20; 10 for one that has none."""
    found = re.search(r"[@_](\d+)(\(.*\))?$", measure)
    # What follows these is a share of the relevant documents.
    share = measure.startswith(("WSS", "IPrec", "iprec", "Rprec"))
    return int(found[1]) if found and not share else TOP


def query_changes(
    qrels: Qrels,
    run: Run,
    against: Run,
    values: Mapping[str, float],
    values_against: Mapping[str, float],
    count: int,
    k: int = TOP,
    policy: Policy = DEFAULT,
) -> tuple[list[QueryChange], list[QueryChange]]:
    """Return the ``count`` queries that the run wins by most and those it loses by most.

    The largest difference comes first; queries without a difference are in neither list. A
    query shows up to five documents that moved within, into or out of the first ``k``: those
    that contribute most to the difference in nDCG@k, whatever the measure; among documents that
    contribute nothing, those that stand or stood highest.
    """
    gaps = {q: round(values[q] - values_against[q], 12) for q in values}
    # Sorting keeps the order of the qrels among equals.
    wins = sorted((q for q in gaps if gaps[q] > 0), key=lambda q: -gaps[q])[:count]
    losses = sorted((q for q in gaps if gaps[q] < 0), key=lambda q: gaps[q])[:count]

    def change(query_id: str) -> QueryChange:
        grades = qrels[query_id]
        order = policy.order(query_id, run.get(query_id, ()), grades)
        other = policy.order(query_id, against.get(query_id, ()), grades)
        return QueryChange(
            query_id,
            values[query_id],
            values_against[query_id],
            jaccard(order, other, k),
            rbo(order, other),
            sum(doc_id not in grades for doc_id in order[:k]),
            sum(doc_id not in grades for doc_id in other[:k]),
            tuple(movers(grades, order, other, k)[:_SHOWN]),
        )

    return [change(q) for q in wins], [change(q) for q in losses]


def movers(
    grades: Mapping[str, int], order: Sequence[str], other: Sequence[str], k: int = TOP
) -> list[Mover]:
    """Return every document that moved within, into or out of the first k, largest effect first.

    The contributions of all of them add up to the difference in nDCG@k.
    """
    ranks = {doc_id: rank for rank, doc_id in enumerate(order, start=1)}
    others = {doc_id: rank for rank, doc_id in enumerate(other, start=1)}
    gains = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
    ideal = math.fsum(_discounted(gain, rank, k) for rank, gain in enumerate(gains, start=1))

    def share(doc_id: str, rank: int | None) -> float:
        return _discounted(max(grades.get(doc_id, 0), 0), rank, k) / ideal if ideal else 0.0

    found = [
        Mover(
            doc_id,
            grades.get(doc_id),
            ranks.get(doc_id),
            others.get(doc_id),
            share(doc_id, ranks.get(doc_id)) - share(doc_id, others.get(doc_id)),
        )
        for doc_id in dict.fromkeys([*order[:k], *other[:k]])
        if ranks.get(doc_id) != others.get(doc_id)
    ]
    return sorted(found, key=lambda mover: (-abs(mover.contribution), _highest(mover)))


def _discounted(gain: int, rank: int | None, k: int) -> float:
    return gain / math.log2(rank + 1) if rank is not None and rank <= k else 0.0


def _highest(mover: Mover) -> int:
    return min(rank for rank in (mover.rank, mover.rank_against) if rank is not None)
