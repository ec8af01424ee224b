"""Runs, qrels and comparisons as ranx writes them to JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.runs import Run
from ranklens.eval.export.runs import normalised
from ranklens.eval.measures import evaluate
from ranklens.eval.stats.effect import effect
from ranklens.eval.stats.tests import differences, paired_t

_NAMES = {
    "nDCG": "ndcg", "AP": "map", "RR": "mrr", "P": "precision", "R": "recall",
    "Success": "hit_rate", "Rprec": "r-precision", "Bpref": "bpref",
}  # fmt: skip
_MEASURE = re.compile(r"(\w+)(?:\(rel=(\d+)\))?(@\d+)?")
# The keys that stand beside the models' names.
_RESERVED = ("stat_test", "metrics", "model_names")


def ranx_measure(name: str) -> str:
    """Return ranx's name of a measure; UsageError for one that ranx computes otherwise or not.

    Binary measures keep their level: ``AP(rel=2)@100`` is ``map@100-l2``.
    """
    found = _MEASURE.fullmatch(name)
    # ranx leaves out the gains of lower grades where nDCG has a level.
    if found is None or found[1] not in _NAMES or (found[1] == "nDCG" and found[2]):
        raise UsageError(
            f"ranx has no measure {name!r}; it has {', '.join(_NAMES)}, with @k, and (rel=n) for "
            "all but nDCG"
        )
    level = f"-l{found[2]}" if found[2] and int(found[2]) > 1 else ""
    return _NAMES[found[1]] + (found[3] or "") + level


def ranx_run(run: Run) -> dict[str, dict[str, float]]:
    """Return a run as ``ranx.Run.from_file`` reads it.

    Scores strictly decrease (``normalised``), for ranx orders ties by chance; queries without a
    document are left out, for ranx refuses them.
    """
    return {
        query_id: {doc.doc_id: doc.score for doc in docs}
        for query_id, docs in normalised(run).items()
        if docs
    }


def ranx_qrels(qrels: Qrels) -> dict[str, dict[str, int]]:
    """Return judgements as ``ranx.Qrels.from_file`` reads them."""
    return {query_id: dict(grades) for query_id, grades in qrels.items()}


def ranx_report(qrels: Qrels, runs: Mapping[str, Run], measures: Sequence[str]) -> dict[str, Any]:
    """Return the comparison of runs that ``ranx.Report.save`` writes.

    Values are ours (every judged query counts); p-values are of the paired two-sided t-test,
    uncorrected, which is what ranx computes unless told otherwise. Two runs without a difference
    have a p-value of 1, where ranx has NaN. Raises UsageError for a measure that ranx has not,
    InvalidInputError for a run's name that ranx's file has another use for, and as ``evaluate``.
    """
    names = {measure: ranx_measure(measure) for measure in measures}
    for name in runs:
        if name in _RESERVED:
            raise InvalidInputError(f"a run is named {name!r}, which ranx's report has a use for")
    scores = {
        run_name: {
            theirs: np.array(list(result.measures[ours].per_query.values()))
            for ours, theirs in names.items()
        }
        for run_name, run in runs.items()
        for result in [evaluate(qrels, run, list(names))]
    }
    report: dict[str, Any] = {
        "stat_test": "student",
        "metrics": list(names.values()),
        "model_names": list(runs),
    }
    for name, by_metric in scores.items():
        report[name] = {
            "scores": {metric: float(values.mean()) for metric, values in by_metric.items()},
            "comparisons": {},
            "win_tie_loss": {},
        }
    for one, other in permutations(scores, 2):
        pairs = {metric: (scores[one][metric], scores[other][metric]) for metric in names.values()}
        report[one]["comparisons"][other] = {m: paired_t(*pair) for m, pair in pairs.items()}
        report[one]["win_tie_loss"][other] = {
            metric: {"W": found.wins, "T": found.ties, "L": found.losses}
            for metric, pair in pairs.items()
            for found in [effect(differences(*pair))]
        }
    return report
