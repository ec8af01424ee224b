"""Measures with trec_eval's values, under one policy for everything trec_eval leaves to flags.

* Names: ``ranklens.eval.measure_names``.
* Order, and the queries and documents that count: ``ranklens.eval.policy``; unless told otherwise
  as trec_eval 9 with ``-c``. Queries that are not judged are left out.
* Grades: nDCG gains are the grades as they are, grades below 1 gain nothing. Binary measures
  count grades of at least ``rel`` (1 unless written: ``AP(rel=2)``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ranklens.data.errors import InvalidInputError
from ranklens.data.qrels import Qrels
from ranklens.data.runs import Run
from ranklens.eval.intervals import mean_interval
from ranklens.eval.measure_names import Aggregate, Measure, parse_measure
from ranklens.eval.policy import DEFAULT, Orders, Policy
from ranklens.eval.ranked_measures import Ranked


@dataclass(frozen=True, slots=True)
class MeasureResult:
    """One measure of one run: its mean, a 95% interval of that mean, the value per query.

    The interval is the percentile bootstrap over queries (1,000 resamples, fixed seed). Of counts
    (``NumRet``) the value is the sum, of trec_eval's ``gm_`` measures the geometric mean, and the
    interval goes with it.
    """

    value: float
    ci95: tuple[float, float]
    per_query: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All measures of one run over ``queries`` judged queries, and what the reader should know."""

    measures: Mapping[str, MeasureResult]
    queries: int
    warnings: tuple[str, ...]
    policy: Policy = DEFAULT


def default_measures(relevance_level: int = 1) -> list[str]:
    """Return the measures that are shown when none are asked for."""
    rel = f"(rel={relevance_level})" if relevance_level > 1 else ""
    return ["nDCG@10", f"AP{rel}", f"RR{rel}@10", f"P{rel}@10", f"R{rel}@100", "Judged@10"]


def evaluate(
    qrels: Qrels, run: Run, measures: Sequence[str], policy: Policy = DEFAULT
) -> Evaluation:
    """Evaluate a run under a policy.

    Raises UsageError for a measure that does not exist or cannot be computed exactly here,
    InvalidInputError when run and qrels have no query or no document in common.
    """
    parsed = [parse_measure(name) for name in dict.fromkeys(measures)]
    warnings = coverage_warnings(qrels, run, policy)
    rankings = Rankings(qrels, run, policy)
    values = _of_trec_eval(rankings, [measure for measure in parsed if measure.own is None])
    results = {}
    for measure in parsed:
        found = values.get(measure.name) or _of_ours(rankings, measure)
        results[measure.name] = _summary(found, measure.aggregate)
    return Evaluation(results, len(rankings.grades), warnings, policy)


class Scorer:
    """One measure under one set of judgements, made ready once for the values of many rankings.

    Documents are ranked as they come, and judged queries without any count as 0. Raises
    UsageError as ``evaluate``.
    """

    def __init__(self, qrels: Qrels, measure: str) -> None:
        self._qrels = qrels
        self._measure = parse_measure(measure)
        self._evaluator = _evaluator(qrels, [self._measure]) if self._measure.own is None else None

    def values(self, orders: Orders) -> dict[str, float]:
        """Return the value of every judged query."""
        rankings = Rankings.of_orders(self._qrels, orders)
        if self._evaluator is None:
            return _of_ours(rankings, self._measure)
        return _values(self._evaluator, rankings, [self._measure])[self._measure.name]

    def mean(self, orders: Orders) -> float:
        """Return the mean over judged queries, also of what ``evaluate`` adds up."""
        values = self.values(orders).values()
        return math.fsum(values) / len(values)


class Rankings:
    """The judged queries of a run as its measures see them: in the policy's order.

    ``grades``: for each query that counts its judgements.
    """

    def __init__(self, qrels: Qrels, run: Run, policy: Policy) -> None:
        grades = {
            query_id: grades
            for query_id, grades in qrels.items()
            if policy.missing == "zero" or run.get(query_id)
        }
        order = {
            query_id: policy.order(query_id, run.get(query_id, ()), judged)
            for query_id, judged in grades.items()
        }
        self._keep(grades, order, rounded=policy.recall_levels == "rounded")

    @classmethod
    def of_orders(cls, qrels: Qrels, orders: Orders) -> Rankings:
        """Return rankings by document ids, best first, of all judged queries."""
        rankings = cls.__new__(cls)
        rankings._keep(qrels, {q: orders.get(q, ()) for q in qrels}, rounded=False)
        return rankings

    def _keep(
        self, grades: Mapping[str, Mapping[str, int]], order: Orders, *, rounded: bool
    ) -> None:
        self.grades = grades
        self._rounded = rounded
        self._ranked: dict[bool, dict[str, Ranked]] = {}
        self._order = order

    def order(self, judged_only: bool = False) -> Orders:
        """Return the document ids of each query, best first."""
        if not judged_only:
            return self._order
        return {
            query_id: [doc_id for doc_id in order if self.grades[query_id].get(doc_id, -1) >= 0]
            for query_id, order in self._order.items()
        }

    def ranked(self, judged_only: bool = False) -> dict[str, Ranked]:
        """Return the rankings as grades."""
        if judged_only not in self._ranked:
            self._ranked[judged_only] = self._as_grades(judged_only)
        return self._ranked[judged_only]

    def _as_grades(self, judged_only: bool) -> dict[str, Ranked]:
        highest = max((max(grades.values()) for grades in self.grades.values()), default=1)
        return {
            query_id: Ranked(
                list(map(self.grades[query_id].get, order)),
                sorted(self.grades[query_id].values(), reverse=True),
                max(highest, 1),
                self._rounded,
            )
            for query_id, order in self.order(judged_only).items()
        }


def _of_ours(rankings: Rankings, measure: Measure) -> dict[str, float]:
    compute = measure.own
    assert compute is not None
    return {
        query_id: float(compute(ranked))
        for query_id, ranked in rankings.ranked(measure.judged_only).items()
    }


def _of_trec_eval(rankings: Rankings, measures: Sequence[Measure]) -> dict[str, dict[str, float]]:
    """Return name → query → value of what pytrec_eval computes, one call per relevance level."""
    values: dict[str, dict[str, float]] = {}
    for kind in sorted({(measure.judged_only, measure.rel) for measure in measures}):
        group = [m for m in measures if (m.judged_only, m.rel) == kind]
        values |= _values(_evaluator(rankings.grades, group), rankings, group)
    return values


def _evaluator(grades: Mapping[str, Mapping[str, int]], group: Sequence[Measure]) -> Any:
    """Return pytrec_eval's evaluator of measures that have the same relevance level."""
    import pytrec_eval

    judgements = {
        query_id: dict(judged) if max(judged.values()) >= 0 else {**judged, _NO_DOCUMENT: 0}
        for query_id, judged in grades.items()
    }
    names = {str(measure.trec) for measure in group}
    return pytrec_eval.RelevanceEvaluator(judgements, names, relevance_level=group[0].rel)


def _values(
    evaluator: Any, rankings: Rankings, group: Sequence[Measure]
) -> dict[str, dict[str, float]]:
    """Return name → query → value of measures that read the same documents."""
    # What is below the last cutoff has no part in a measure with one.
    cut = all("cutoff" in measure.params for measure in group)
    depth = max(int(measure.params["cutoff"]) for measure in group) if cut else None
    orders = rankings.order(group[0].judged_only)
    found = evaluator.evaluate(_scores(orders, depth))
    return {
        measure.name: {q: _value(measure, found.get(q)) for q in rankings.grades}
        for measure in group
    }


# trec_eval counts the documents of each grade from 0 on, and writes beside its memory where a query
# has none of them. No document has the empty id.
_NO_DOCUMENT = ""
# trec_eval's least value in a geometric mean.
_FLOOR = 0.00001


def _value(measure: Measure, found: Mapping[str, float] | None) -> float:
    """Return a measure's value from pytrec_eval's of a query, None where it lacks the query."""
    geometric = measure.aggregate == "geometric"
    if found is None:
        return _FLOOR if geometric else 0.0
    value = found[str(measure.trec)]
    return math.exp(value) if geometric else float(value)


def _scores(orders: Orders, depth: int | None) -> dict[str, dict[str, float]]:
    """Return scores that fix an order whatever the ties, of the documents down to a depth."""
    return {
        query_id: dict(zip(order[:depth], map(float, range(len(order), 0, -1)), strict=False))
        for query_id, order in orders.items()
        if order
    }


def missing_queries(qrels: Qrels, run: Run) -> list[str]:
    """Return the judged queries that a run lacks.

    Raises InvalidInputError when run and qrels have no query or no document in common.
    """
    missing = [query_id for query_id in qrels if not run.get(query_id)]
    if len(missing) == len(qrels):
        raise InvalidInputError(
            f"run {run.tag!r} and the qrels have no query in common "
            f"(the run has {next(iter(run), None)!r}, the qrels {next(iter(qrels), None)!r}, …); "
            "are they of the same test set?"
        )
    # A poor run may find nothing judged for its queries; ids of another spelling occur nowhere.
    judged = {doc_id for grades in qrels.values() for doc_id in grades}
    if not any(doc.doc_id in judged for q in qrels for doc in run.get(q, ())):
        shown = next(doc.doc_id for q in qrels for doc in run.get(q, ()))
        raise InvalidInputError(
            f"run {run.tag!r} has no judged document for any query (the run has {shown!r}, "
            f"the qrels {min(judged)!r}, …); are the document ids written alike?"
        )
    return missing


def coverage_warnings(qrels: Qrels, run: Run, policy: Policy = DEFAULT) -> tuple[str, ...]:
    """Return what ``evaluate`` says of missing and tied queries; raises as it."""
    missing = missing_queries(qrels, run)
    warnings = []
    if missing:
        warnings.append(
            f"{len(missing)} of {len(qrels)} judged queries are missing from run {run.tag!r} "
            f"and {'count as 0' if policy.missing == 'zero' else 'are left out'} "
            f"(first: {missing[0]!r})"
        )
    unjudged = sum(1 for query_id in run if query_id not in qrels)
    if unjudged:
        warnings.append(f"{unjudged} queries of run {run.tag!r} are not judged and are left out")
    tied = [query_id for query_id in policy.tied_queries(run) if query_id in qrels]
    if tied:
        warnings.append(
            f"{len(tied)} queries of run {run.tag!r} have tied scores, ordered by document id, "
            f"descending, as trec_eval does (first: {tied[0]!r})"
        )
    return tuple(warnings)


def _summary(per_query: dict[str, float], aggregate: Aggregate) -> MeasureResult:
    values = np.fromiter(per_query.values(), dtype=np.float64)
    if aggregate == "geometric":
        values = np.log(values)
    low, high = mean_interval(values)
    summary = [float(values.mean()), low, high]
    if aggregate == "geometric":
        summary = [math.exp(value) for value in summary]
    elif aggregate == "sum":
        summary = [value * len(values) for value in summary]
        summary[0] = math.fsum(values)
    return MeasureResult(summary[0], (summary[1], summary[2]), per_query)
