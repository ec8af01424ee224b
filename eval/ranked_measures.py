"""Measures of one query's ranking that pytrec_eval lacks or computes for some parameters only.

All take a ``Ranked`` and return a float; without a relevant document they return 0. ``k`` cuts
the ranking, ``rel`` is the grade from which a document is relevant, g a document's grade, and
documents without a judgement have grade 0.

* ``RBP(p=0.8)``: (1 − p) · Σ gain · p^(rank−1) (Moffat & Zobel 2008). The gain is g over the
  highest grade of the qrels, so that it cannot exceed 1; with ``rel`` it is 1 or 0.
* ``ERR@k``: Σ 1/rank · R · Π (1 − R of the documents before), R = (2^g − 1)/16 (Chapelle et al.
  2009), with the 16 of TREC's gdeval for grades up to 4, whatever the highest grade is; a
  grade above 4 counts as 4.
* ``nDCG(dcg='exp-log2')@k``: the gain is 2^g − 1, the discount log2(rank + 1), the ideal over all
  judged documents: gdeval's nDCG, for any query id and grade.
* ``R_cap@k``: relevant documents in the first k, over the smaller of k and all relevant ones
  (BEIR's capped recall).
* ``Judged@k``: the share of the first k that has a judgement, whatever grade.
* ``IPrec@r``: the highest precision at or below the rank where a share r of the relevant
  documents is found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError

_LARGEST_OF_GDEVAL = 4


@dataclass(frozen=True, slots=True)
class Ranked:
    """One query's ranking as grades, and what else its measures need.

    ``grades``: of the documents of the ranking, None for one without a judgement. ``judged``: of
    all judged documents of the query, descending. ``highest``: the highest grade of the qrels, at
    least 1. ``rounded``: the policy's way from a share of the relevant documents to a count.
    """

    grades: Sequence[int | None]
    judged: Sequence[int]
    highest: int
    rounded: bool = False

    def relevant(self, rel: int) -> list[bool]:
        """Return for each document of the ranking whether it is relevant."""
        return [grade is not None and grade >= rel for grade in self.grades]


def relevant_count(ranked: Ranked, rel: int) -> int:
    """Return how many documents are relevant, found or not."""
    return sum(grade >= rel for grade in ranked.judged)


def linear(grade: float) -> float:
    """Return a grade as its gain."""
    return max(grade, 0.0)


def exponential(grade: float) -> float:
    """Return the gain 2^grade − 1 of a grade; InvalidInputError beyond what a float holds."""
    try:
        return math.pow(2.0, max(grade, 0.0)) - 1.0
    except OverflowError:
        raise InvalidInputError(
            f"the grade {grade} is too large for exponential gains; use nDCG@k, whose gains are "
            "the grades"
        ) from None


def ndcg(
    ranked: Ranked, gain: Callable[[float], float], k: int | None, gains: Mapping[int, float]
) -> float:
    """Return nDCG with another gain; ``gains`` replaces grades before it."""

    def worth(grade: int) -> float:
        return gain(gains.get(grade, grade))

    def dcg(grades: Sequence[int | None]) -> float:
        return math.fsum(
            worth(grade) / math.log2(rank + 1)
            for rank, grade in enumerate(grades[:k], start=1)
            if grade is not None
        )

    best = sorted(ranked.judged, key=worth, reverse=True)
    ideal = dcg(best)
    return dcg(ranked.grades) / ideal if ideal else 0.0


def rr(ranked: Ranked, k: int, rel: int) -> float:
    """Return 1 over the rank of the first relevant document, 0 behind rank k."""
    for rank, grade in enumerate(ranked.grades[:k], start=1):
        if grade is not None and grade >= rel:
            return 1.0 / rank
    return 0.0


def judged(ranked: Ranked, k: int | None) -> float:
    """Return the share of the first k documents (of all where there are fewer) with a judgement."""
    grades = ranked.grades[:k]
    return sum(grade is not None for grade in grades) / len(grades) if grades else 0.0


def rbp(ranked: Ranked, p: float, rel: int | None, k: int | None) -> float:
    """Return rank-biased precision with persistence p."""
    return (1 - p) * math.fsum(
        _share(grade, ranked.highest, rel) * p**position
        for position, grade in enumerate(ranked.grades[:k])
        if grade is not None
    )


def _share(grade: int, highest: int, rel: int | None) -> float:
    return max(grade, 0) / highest if rel is None else float(grade >= rel)


def err(ranked: Ranked, k: int | None) -> float:
    """Return expected reciprocal rank."""
    total, reached = 0.0, 1.0
    for rank, grade in enumerate(ranked.grades[:k], start=1):
        stops = exponential(min(grade or 0, _LARGEST_OF_GDEVAL)) / 2**_LARGEST_OF_GDEVAL
        total += reached * stops / rank
        reached *= 1 - stops
    return total


def capped_recall(ranked: Ranked, k: int, rel: int) -> float:
    """Return the relevant documents in the first k over what k documents could hold."""
    possible = min(k, relevant_count(ranked, rel))
    return sum(ranked.relevant(rel)[:k]) / possible if possible else 0.0


def set_f(ranked: Ranked, beta: float, rel: int) -> float:
    """Return trec_eval's set_F: (β + 1)·P·R / (R + β·P) of the whole list."""
    found, possible = sum(ranked.relevant(rel)), relevant_count(ranked, rel)
    if not found:
        return 0.0
    precision, recall = found / len(ranked.grades), found / possible
    return (beta + 1) * precision * recall / (recall + beta * precision)


def iprec(ranked: Ranked, recall: float, rel: int) -> float:
    """Return interpolated precision at a recall level."""
    share = recall * relevant_count(ranked, rel)
    needed = math.floor(share + 0.5) if ranked.rounded else int(share + 0.9)
    found = 0
    precisions = []
    for rank, relevant in enumerate(ranked.relevant(rel), start=1):
        found += relevant
        precisions.append(found / rank if found >= needed else 0.0)
    return max(precisions, default=0.0)
