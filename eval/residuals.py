"""What documents without a judgement could change: an upper bound beside each value.

The value takes every such document as not relevant. The upper bound takes every one that the
measure reads as a document of the highest grade of the qrels, and measures that against the ideal
of the judgements there are: the number of relevant documents, and nDCG's ideal ranking, stay as
judged, and no value exceeds 1. A judgement can raise what is found by no more than that, and can
only raise the ideal, so no judgements of these documents give a value above the bound; the bound
itself is often out of reach, as the ideal would rise too. Of RBP it is the value plus the
residual of its unjudged documents and of everything behind the list (Moffat & Zobel 2008).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ranklens.data.qrels import Qrels
from ranklens.data.runs import Run
from ranklens.eval import ranked_measures
from ranklens.eval.measure_names import Measure, parse_measure
from ranklens.eval.measures import Rankings
from ranklens.eval.policy import DEFAULT, Policy
from ranklens.eval.ranked_measures import Ranked, relevant_count


def upper_bounds(
    qrels: Qrels, run: Run, measures: Sequence[str], policy: Policy = DEFAULT
) -> dict[str, float | None]:
    """Return for each measure the mean of its upper bounds over the queries that count.

    None for measures that have none here: counts, measures of whole sets, Bpref, screening, and
    whatever leaves unjudged documents out. Raises UsageError for a measure that does not exist.
    """
    rankings = Rankings(qrels, run, policy).ranked()
    bounds: dict[str, float | None] = {}
    for name in measures:
        measure = parse_measure(name)
        left_out = policy.unjudged == "removed" or measure.judged_only
        if measure.kind not in _FOUND or "gains" in measure.params or left_out:
            bounds[name] = None
        else:
            values = [_bound(measure, ranked) for ranked in rankings.values()]
            bounds[name] = sum(values) / len(values)
    return bounds


def _bound(measure: Measure, ranked: Ranked) -> float:
    highest = max(ranked.highest, measure.rel)
    hopeful = replace(ranked, grades=[highest if g is None else g for g in ranked.grades])
    return min(_FOUND[measure.kind](hopeful, measure.params), 1.0)


def _first(ranked: Ranked, params: Mapping[str, Any]) -> list[bool]:
    return ranked.relevant(params.get("rel", 1))[: params.get("cutoff")]


def _ideal(ranked: Ranked, params: Mapping[str, Any]) -> int:
    # Where nothing is relevant yet, the first relevant document is the ideal.
    return max(relevant_count(ranked, params.get("rel", 1)), 1)


def _average_precision(ranked: Ranked, params: Mapping[str, Any]) -> float:
    found, total = 0, 0.0
    for rank, relevant in enumerate(_first(ranked, params), start=1):
        found += relevant
        total += relevant * found / rank
    return total / _ideal(ranked, params)


def _ndcg(ranked: Ranked, params: Mapping[str, Any]) -> float:
    if not relevant_count(ranked, 1):
        return float(any(_first(ranked, params)))
    exponential = params.get("dcg") == "exp-log2"
    gain = ranked_measures.exponential if exponential else ranked_measures.linear
    return ranked_measures.ndcg(ranked, gain, params.get("cutoff"), {})


def _rbp(ranked: Ranked, params: Mapping[str, Any]) -> float:
    p, cutoff = params.get("p", 0.8), params.get("cutoff")
    value = ranked_measures.rbp(ranked, p, params.get("rel"), cutoff)
    return value + (p ** len(ranked.grades) if cutoff is None else 0.0)


def _rr(ranked: Ranked, params: Mapping[str, Any]) -> float:
    cutoff = params.get("cutoff", len(ranked.grades))
    return ranked_measures.rr(ranked, cutoff, params.get("rel", 1))


# By kind, the measure of a ranking without unjudged documents; beyond 1 where the ideal is less.
_FOUND: dict[str, Callable[[Ranked, Mapping[str, Any]], float]] = {
    "P": lambda ranked, params: sum(_first(ranked, params)) / params["cutoff"],
    "R": lambda ranked, params: sum(_first(ranked, params)) / _ideal(ranked, params),
    "R_cap": lambda ranked, params: (
        sum(_first(ranked, params)) / min(_ideal(ranked, params), params["cutoff"])
    ),
    "Success": lambda ranked, params: float(any(_first(ranked, params))),
    "AP": _average_precision,
    "RR": _rr,
    "nDCG": _ndcg,
    "RBP": _rbp,
    "ERR": lambda ranked, params: ranked_measures.err(ranked, params.get("cutoff")),
}
