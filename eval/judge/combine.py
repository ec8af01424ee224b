"""Several judges' labels as one."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.data.errors import UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement
from ranklens.eval.judge.verdict import rounded

WAYS = ("majority", "median", "mean")


@dataclass(frozen=True, slots=True)
class Combined:
    """The labels of an ensemble.

    ``incomplete``: pairs that some of the sets lack, whose label is by the others; ``unanimous``:
    pairs on which all that have one agree; ``tied``: pairs that the rule on ties decided.
    """

    qrels: Qrels
    incomplete: int
    unanimous: int
    tied: int


def combine(sets: Sequence[Qrels], by: str = "majority") -> Combined:
    """Combine labels pair by pair, over the pairs of all sets.

    ``majority``: the most frequent label; ``median``; ``mean``, rounded. Where two labels are
    as good (equally frequent, the two in the middle, a half), it is the lower one. Raises
    UsageError for another way.
    """
    if by not in WAYS:
        raise UsageError(f"unknown way {by!r} to combine labels; choose {', '.join(WAYS)}")
    labels: dict[tuple[str, str], list[int]] = {}
    for qrels in sets:
        for query_id, grades in qrels.items():
            for doc_id, grade in grades.items():
                labels.setdefault((query_id, doc_id), []).append(grade)
    judgements, tied = [], 0
    for (query_id, doc_id), given in labels.items():
        grade, was_tied = _one(given, by)
        judgements.append(Judgement(query_id, doc_id, grade))
        tied += was_tied
    return Combined(
        Qrels(judgements),
        incomplete=sum(len(given) < len(sets) for given in labels.values()),
        unanimous=sum(len(set(given)) == 1 for given in labels.values()),
        tied=tied,
    )


def _one(given: Sequence[int], by: str) -> tuple[int, bool]:
    if by == "majority":
        counts = Counter(given)
        best = [grade for grade, count in counts.items() if count == max(counts.values())]
        return min(best), len(best) > 1
    if by == "median":
        low = statistics.median_low(given)
        return low, low != statistics.median_high(given)
    return rounded(given), 2 * sum(given) % (2 * len(given)) == len(given)
