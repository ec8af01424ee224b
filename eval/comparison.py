"""Runs compared: means, tests for every pair, how far the rankings are alike.

The family of a correction is the pairs of one measure: the runs against the baseline where there
is one, all pairs else. Measures are not corrected for each other. Tukey's test always looks at
all runs, also where only the pairs with the baseline are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.runs import Run
from ranklens.eval.measure_names import check_comparable
from ranklens.eval.measures import MeasureResult, coverage_warnings, evaluate
from ranklens.eval.overlap import Overlap, overlap, unjudged_at
from ranklens.eval.policy import DEFAULT, Orders, Policy
from ranklens.eval.stats.effect import Effect, effect
from ranklens.eval.stats.family import (
    LEVEL,
    check_correction,
    check_test,
    corrected,
    too_coarse,
)
from ranklens.eval.stats.tests import SAMPLES, differences, p_values


@dataclass(frozen=True, slots=True)
class Pair:
    """One run held against another by one measure: run minus ``against``."""

    measure: str
    run: str
    against: str
    effect: Effect
    p: float
    p_corrected: float

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below the level."""
        return self.p_corrected < LEVEL


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One run: its measures, the judged queries it lacks, its share of unjudged documents.

    ``unjudged`` is the mean over the judged queries the run has, of its first 10 documents.
    """

    measures: Mapping[str, MeasureResult]
    missing: tuple[str, ...]
    unjudged: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs, their pairs per measure, and what the reader should know.

    ``compared`` are the pairs (run, against) of every measure, which are corrected together;
    ``orders`` the documents of a run's judged queries as the policy reads them, best first.
    """

    queries: int
    runs: Mapping[str, ComparedRun]
    baseline: str | None
    test: str
    correction: str
    policy: Policy
    pairs: tuple[Pair, ...]
    compared: tuple[tuple[str, str], ...]
    orders: Mapping[str, Orders] = field(repr=False)
    warnings: tuple[str, ...]

    def overlap(self, run: str, against: str) -> Overlap:
        """Return how much alike the rankings of two runs are."""
        return overlap(self.orders[run], self.orders[against])

    def better_than(self, run: str, measure: str) -> list[str]:
        """Return the runs that a run is significantly better than."""
        found = {
            (pair.run, pair.against) if pair.effect.difference > 0 else (pair.against, pair.run)
            for pair in self.pairs
            if pair.measure == measure and pair.significant
        }
        return [other for other in self.runs if (run, other) in found]


def compare(
    qrels: Qrels,
    runs: Mapping[str, Run],
    measures: Sequence[str],
    *,
    baseline: str | None = None,
    test: str = "t",
    correction: str = "holm",
    policy: Policy = DEFAULT,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare named runs with the baseline, or with each other.

    Raises UsageError for less than two runs, a baseline that is not among them, and an unknown
    measure, test or correction, or a measure that is no mean or is better when lower;
    InvalidInputError for two runs that have no judged query in common, and where a run cannot be
    evaluated.
    """
    if len(runs) < 2:
        raise UsageError("a comparison needs two runs or more")
    if baseline is not None and baseline not in runs:
        raise UsageError(f"the baseline {baseline!r} is none of the runs: {', '.join(runs)}")
    check_test(test)
    check_correction(correction)
    names = list(runs)
    if baseline is None:
        pairs = [(second, first) for first, second in combinations(names, 2)]
    else:
        pairs = [(name, baseline) for name in names if name != baseline]
    answered = {name: [q for q in qrels if run.get(q)] for name, run in runs.items()}
    for run, against in pairs:
        # A run that shares no query with the qrels is refused, by its name, when evaluated.
        both = set(answered[run]) & set(answered[against])
        if answered[run] and answered[against] and not both:
            raise InvalidInputError(
                f"{run} and {against} have no judged query in common "
                f"(the one has {answered[run][0]!r}, the other {answered[against][0]!r}, …)"
            )
    measures = [check_comparable(name) for name in dict.fromkeys(measures)]
    warnings = [
        f"{name}: {text}"
        for name, run in runs.items()
        for text in _coverage(name, qrels, run, policy)
    ]
    missing = {name: tuple(q for q in qrels if not run.get(q)) for name, run in runs.items()}
    if policy.missing == "skip":
        judged, qrels = len(qrels), _common(qrels, answered)
        if left_out := judged - len(qrels):
            warnings.append(
                f"{left_out} of {judged} judged queries are not in all runs and are left out"
            )
    evaluations = {name: evaluate(qrels, run, measures, policy) for name, run in runs.items()}
    orders = {
        name: {q: policy.order(q, run[q], qrels[q]) for q in qrels if run.get(q)}
        for name, run in runs.items()
    }
    compared = []
    for measure in measures:
        results = {name: evaluations[name].measures[measure] for name in names}
        compared += _pairs(measure, results, pairs, test, correction, samples, seed)
    return Comparison(
        queries=len(qrels),
        runs={
            name: ComparedRun(
                evaluation.measures,
                missing[name],
                unjudged_at(qrels, orders[name]),
            )
            for name, evaluation in evaluations.items()
        },
        baseline=baseline,
        test=test,
        correction=correction,
        policy=policy,
        pairs=tuple(compared),
        compared=tuple(pairs),
        orders=orders,
        warnings=(
            *warnings,
            *too_coarse(test, correction, len(pairs), samples),
        ),
    )


def _coverage(name: str, qrels: Qrels, run: Run, policy: Policy) -> tuple[str, ...]:
    try:
        return coverage_warnings(qrels, run, policy)
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}: {error}") from None


def _common(qrels: Qrels, answered: Mapping[str, list[str]]) -> Qrels:
    common = set(qrels).intersection(*answered.values())
    if not common:
        raise InvalidInputError("no judged query is in all of the runs")
    return qrels.restricted_to(q for q in qrels if q in common)


def _pairs(
    measure: str,
    results: Mapping[str, MeasureResult],
    pairs: Sequence[tuple[str, str]],
    test: str,
    correction: str,
    samples: int,
    seed: int,
) -> list[Pair]:
    queries = list(next(iter(results.values())).per_query)
    row = {name: position for position, name in enumerate(results)}
    table = np.array([[result.per_query[q] for q in queries] for result in results.values()])
    first = [row[run] for run, _ in pairs]
    second = [row[against] for _, against in pairs]
    rows = differences(table[first], table[second])
    raw = p_values(test, rows, samples, seed)
    final = corrected(raw, table, (first, second), correction, samples, seed)
    return [
        Pair(measure, run, against, effect(rows[i]), float(raw[i]), float(final[i]))
        for i, (run, against) in enumerate(pairs)
    ]
