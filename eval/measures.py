"""Measures with trec_eval's values, under one policy for everything trec_eval leaves to flags.

* Order, and the queries and documents that count: ``ranklens.eval.policy``; unless told otherwise
  as trec_eval 9 with ``-c``. Queries that are not judged are left out.
* Grades: nDCG gains are the grades as they are, grades below 1 gain nothing. Binary measures
  count grades of at least ``rel`` (1 unless written: ``AP(rel=2)``).

Measures are named as ir_measures names them: ``nDCG@10``, ``AP(rel=2)``, ``RR@10``, ``Judged@10``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.runs import Run
from ranklens.eval.policy import DEFAULT, Policy

_RESAMPLES = 1000
_COUNTS = {"NumQ", "NumRel", "NumRet"}
_EXAMPLES = "nDCG@10, AP, RR@10, P@5, R@100, Judged@10, AP(rel=2)"


@dataclass(frozen=True, slots=True)
class MeasureResult:
    """One measure of one run: its mean, a 95% interval of that mean, the value per query.

    The interval is the percentile bootstrap over queries (1,000 resamples, fixed seed).
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
    provider = _provider()
    parsed = {name: _parse(name, provider) for name in measures}
    warnings = _checked(qrels, run, policy)
    counted = [q for q in qrels if policy.missing == "zero" or run.get(q)]
    judgements = {query_id: dict(qrels[query_id]) for query_id in counted}
    ranked = _ranked(run, judgements, policy)
    results = {}
    for name, measure in parsed.items():
        # One by one: in one call, ir_measures can compute nDCG with another measure's gains.
        metrics = provider.iter_calc([measure], judgements, ranked)
        values = {metric.query_id: float(metric.value) for metric in metrics}
        results[name] = _summary({query_id: values[query_id] for query_id in counted})
    return Evaluation(results, queries=len(counted), warnings=warnings)


def _parse(name: str, provider: Any) -> Any:
    import ir_measures

    try:
        measure = ir_measures.parse_measure(name)
    except (NameError, ValueError, SyntaxError, TypeError, KeyError, AssertionError):
        raise UsageError(f"unknown measure {name!r}; examples: {_EXAMPLES}") from None
    try:
        measure.validate_params()
    except AssertionError:
        raise UsageError(
            f"the measure {name!r} lacks a parameter or has a wrong one; examples: {_EXAMPLES}"
        ) from None
    # trec_eval ends the whole process for a cutoff of 0.
    for key in ("cutoff", "rel"):
        value = measure.params.get(key, 1)
        if type(value) is not int or not 1 <= value < 2**31:
            raise UsageError(f"the measure {name!r}: {key} must be an integer of at least 1")
    if any(type(gain) is not int for gain in measure.params.get("gains", {}).values()):
        raise UsageError(f"the measure {name!r}: gains must be integers")
    # Counts such as NumRet are totals, which have no mean and no interval.
    if measure.NAME in _COUNTS or not provider.supports(measure):
        raise UsageError(f"the measure {name!r} is not supported; examples: {_EXAMPLES}")
    return measure


def _provider() -> Any:
    """Return the implementations that compute without outside programs (gdeval needs Perl)."""
    from ir_measures import providers

    return providers.FallbackProvider(
        [
            providers.PytrecEvalProvider(),
            providers.JudgedProvider(),
            providers.MsMarcoProvider(),
        ]
    )


def _ranked(
    run: Run, judgements: Mapping[str, Mapping[str, int]], policy: Policy
) -> dict[str, dict[str, float]]:
    """Return the judged queries' documents with scores that fix the policy's order.

    The implementations break ties differently (the one of RR@10 by ascending id), so ties are
    gone before they see the run: a document's score becomes its distance from the end.
    """
    ranked = {}
    for query_id, grades in judgements.items():
        if order := policy.order(query_id, run.get(query_id, ()), grades):
            ranked[query_id] = {
                doc_id: float(len(order) - position) for position, doc_id in enumerate(order)
            }
    return ranked


def _checked(qrels: Qrels, run: Run, policy: Policy) -> tuple[str, ...]:
    """Return warnings about coverage and ties; raise where nothing matches at all."""
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
    tied = [query_id for query_id in run.tied_queries if query_id in qrels]
    if tied and policy.ties == "docno" and policy.scores == "float32":
        warnings.append(
            f"{len(tied)} queries of run {run.tag!r} have tied scores, ordered by document id, "
            f"descending, as trec_eval does (first: {tied[0]!r})"
        )
    return tuple(warnings)


def _summary(per_query: dict[str, float]) -> MeasureResult:
    values = np.fromiter(per_query.values(), dtype=np.float64)
    generator = np.random.default_rng(0)
    means = [
        values[generator.integers(0, len(values), len(values))].mean() for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return MeasureResult(float(values.mean()), (float(low), float(high)), per_query)
