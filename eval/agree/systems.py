"""Scores of systems under gold and judge labels, made comparable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from ranklens.data.errors import InvalidInputError
from ranklens.data.qrels import Qrels
from ranklens.data.runs import Run
from ranklens.data.score_table import ScoreTable
from ranklens.eval.measure_names import check_comparable
from ranklens.eval.measures import Scorer, missing_queries
from ranklens.eval.policy import DEFAULT

Topics = Literal["shared", "own"]
"""``shared``: topics that gold and judge both have. ``own``: each all of its own."""


def score_runs(
    runs: Mapping[str, Run],
    qrels: Qrels,
    measure: str,
    advance: Callable[[int], None] = lambda count: None,
) -> ScoreTable:
    """Return the scores of runs per query, under the default policy of ``evaluate``.

    A judged query that a run lacks scores 0; the table counts those. Raises what ``evaluate``
    does, and UsageError for a measure that ``check_comparable`` refuses.
    """
    scorer = Scorer(qrels, check_comparable(measure))
    scores = {}
    missing = 0
    for name, run in runs.items():
        missing += len(missing_queries(qrels, run))
        scores[name] = scorer.values(
            {q: DEFAULT.order(q, run[q], grades) for q, grades in qrels.items() if run.get(q)}
        )
        advance(1)
    return ScoreTable.of(measure, scores, missing=missing)


def aligned(
    gold: ScoreTable, judge: ScoreTable, topics: Topics
) -> tuple[ScoreTable, ScoreTable, tuple[str, ...]]:
    """Return both tables with the same systems in the same order, and what was left out.

    With ``shared`` the topics are the same too; with ``own`` each keeps its own, so means are
    over different topics. Raises InvalidInputError for fewer than two systems in common, and
    where ``shared`` leaves no topic.
    """
    systems = [system for system in gold.systems if system in set(judge.systems)]
    if len(systems) < 2:
        raise InvalidInputError(
            f"gold and judge have scores of {len(systems)} systems in common (gold has "
            f"{gold.systems[0]!r}, …, the judge {judge.systems[0]!r}, …); rankings need two"
        )
    notes = []
    for whose, table in (("gold", gold), ("judge", judge)):
        if extra := [system for system in table.systems if system not in set(systems)]:
            notes.append(
                f"{len(extra)} systems have {whose} scores only and are left out "
                f"(first: {extra[0]!r})"
            )
    if topics == "own":
        if set(gold.topics) != set(judge.topics):
            notes.append(
                f"means are over different topics: {len(gold.topics)} of the gold, "
                f"{len(judge.topics)} of the judge"
            )
        wanted = gold.topics, judge.topics
    else:
        shared = tuple(topic for topic in gold.topics if topic in set(judge.topics))
        if not shared:
            raise InvalidInputError(
                f"gold and judge have no topic in common (gold has {gold.topics[0]!r}, …, the "
                f"judge {judge.topics[0]!r}, …); to compare means over different topics, give "
                "--topics own"
            )
        left = len(gold.topics) - len(shared), len(judge.topics) - len(shared)
        if any(left):
            notes.append(
                f"{len(shared)} topics are in both; {left[0]} of the gold alone and {left[1]} of "
                "the judge alone are left out"
            )
        wanted = shared, shared
    first, second = (
        table.restricted_to(systems, of) for table, of in zip((gold, judge), wanted, strict=True)
    )
    if first.topics == second.topics and (first.values == second.values).all():
        notes.append(
            "gold and judge scores are the same throughout: the judge's labels may be the gold's"
        )
    return first, second, tuple(notes)
