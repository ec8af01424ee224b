"""The table of BEIR: nDCG@10 and recall at 100, set by set, and the mean.

The rows are the 18 sets of BEIR's leaderboard (Kamalloo et al., 2023). As BEIR's own evaluation
does, documents with their query's id are left out on every set, and CQADupStack is the unweighted
mean of its twelve parts. A set that is not there stays missing: it is no zero, and the mean says
over how many sets it was taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ranklens.data.errors import UsageError
from ranklens.data.files import shown
from ranklens.data.qrels import Qrels
from ranklens.data.runs import Run
from ranklens.eval.measures import evaluate
from ranklens.eval.policy import DEFAULT

SETS = (
    "trec-covid", "bioasq", "nfcorpus", "nq", "hotpotqa", "fiqa", "signal1m", "trec-news",
    "robust04", "arguana", "webis-touche2020", "cqadupstack", "quora", "dbpedia-entity",
    "scidocs", "fever", "climate-fever", "scifact",
)  # fmt: skip
CQADUPSTACK = (
    "android", "english", "gaming", "gis", "mathematica", "physics", "programmers", "stats",
    "tex", "unix", "webmasters", "wordpress",
)  # fmt: skip
MEASURES = ("nDCG@10", "R@100")
_PARTS = tuple(f"cqadupstack/{part}" for part in CQADUPSTACK)


@dataclass(frozen=True, slots=True)
class BeirTable:
    """Values by set and measure (a missing set is None), and their mean over ``there`` sets."""

    rows: Mapping[str, Mapping[str, float] | None]
    mean: Mapping[str, float]
    there: int
    warnings: tuple[str, ...]


def check_set(name: str) -> str:
    """Return the name of a set of BEIR, or of a part of CQADupStack; UsageError for another."""
    if name == "cqadupstack":
        raise UsageError(
            "cqadupstack has twelve parts, each with its qrels and run: cqadupstack/android, …"
        )
    if name not in SETS and name not in _PARTS:
        raise UsageError(f"{shown(name)} is no set of BEIR's leaderboard; it has {', '.join(SETS)}")
    return name


def beir_table(sets: Mapping[str, tuple[Qrels, Run]]) -> BeirTable:
    """Return the table of these sets (CQADupStack by its parts); raises as ``evaluate``."""
    policy = replace(DEFAULT, self_documents="remove")
    values: dict[str, dict[str, float]] = {}
    warnings: list[str] = []
    for name, (qrels, run) in sets.items():
        result = evaluate(qrels, run, MEASURES, policy)
        values[check_set(name)] = {m: result.measures[m].value for m in MEASURES}
        warnings += (f"{name}: {text}" for text in result.warnings)
    parts = [values[name] for name in _PARTS if name in values]
    if len(parts) == len(_PARTS):
        values["cqadupstack"] = _mean(parts)
    elif parts:
        warnings.append(
            f"cqadupstack is missing: {len(parts)} of its {len(_PARTS)} parts are there"
        )
    rows = {name: values.get(name) for name in SETS}
    there = [row for row in rows.values() if row is not None]
    return BeirTable(rows, _mean(there) if there else {}, len(there), tuple(warnings))


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {measure: sum(row[measure] for row in rows) / len(rows) for measure in MEASURES}
