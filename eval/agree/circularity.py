"""Whether the judge favours its own kind, and what if it were every system's last stage.

With S_j and S_g a system's mean score by judge and gold, r the judge's own reranker:

    SelfPref  = [S_j(r) − S_g(r)] − mean over all others of [S_j − S_g]
    RankGain  = rank_g(r) − rank_j(r)

For a family both are means over its systems, the others being those outside it. (Meng et al.,
"Re-Rankers as Relevance Judges".)

The simulation lets every system adopt the judge: the first documents of each run are put in the
order of the judge's labels, ties in the run's own order, unjudged documents as grade 0 (Clarke
and Dietz 2024). The judge run is the ideal ranking by the judge of all documents that any system
has among its first ones. Its own score is the ceiling: on a measure that looks no deeper (nDCG@10)
nothing scores above it under the judge's labels, so a system that is truly better cannot be seen
to be (Soboroff 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError
from ranklens.data.qrels import Qrels
from ranklens.eval.agree.rankings import Scores, kendall, ranking
from ranklens.eval.ceiling import best_first
from ranklens.eval.policy import Orders

Score = Callable[[Orders], float]

DEPTH = 100


@dataclass(frozen=True, slots=True)
class SelfPreference:
    """How the judge treats some systems; see the module for the formulas.

    ``inflation`` is the mean of judge − gold scores of ``systems``, ``others`` that of the rest,
    None without a rest; then there is no ``preference`` either.
    """

    systems: tuple[str, ...]
    inflation: float
    others: float | None
    rank_gain: float

    @property
    def preference(self) -> float | None:
        """SelfPref."""
        return None if self.others is None else self.inflation - self.others


def self_preference(gold: Scores, judge: Scores, own: Collection[str]) -> SelfPreference:
    """Return how much more the judge lifts ``own`` systems than the others.

    Systems of equal score have the order of their names. Raises InvalidInputError when none of
    ``own`` has scores.
    """
    systems = tuple(system for system in gold if system in own)
    if not systems:
        raise InvalidInputError("none of the judge's own systems has scores")
    lifts = {system: judge[system] - gold[system] for system in gold}
    rest = [lift for system, lift in lifts.items() if system not in own]
    before, after = _ranks(gold), _ranks(judge)
    return SelfPreference(
        systems,
        inflation=sum(lifts[system] for system in systems) / len(systems),
        others=sum(rest) / len(rest) if rest else None,
        rank_gain=sum(before[system] - after[system] for system in systems) / len(systems),
    )


def _ranks(scores: Scores) -> dict[str, int]:
    return {system: rank for rank, system in enumerate(ranking(scores), start=1)}


@dataclass(frozen=True, slots=True)
class JudgeAsReranker:
    """What happens when all systems take the judge as their last stage.

    τ_b of gold against judge scores, of the systems as they are and as they would be.
    ``gold_change`` is the mean change of the systems' gold scores. The ``run_*`` are the judge
    run's mean scores (``run_judge`` is the ceiling) and its ranks among the n systems and itself.
    """

    depth: int
    tau_before: float | None
    tau_after: float | None
    gold_change: float
    run_gold: float
    run_judge: float
    run_gold_rank: int
    run_judge_rank: int


def judge_as_reranker(
    orders: Mapping[str, Orders],
    judge: Qrels,
    before: tuple[Scores, Scores],
    score: tuple[Score, Score],
    depth: int = DEPTH,
) -> JudgeAsReranker:
    """Simulate that every system reranks its first ``depth`` documents by the judge's labels.

    ``orders`` are the systems' rankings. ``before`` holds their mean scores by gold and by judge
    as they are; ``score`` gives the mean of any rankings, by gold and by judge, which should be
    of the same queries.
    """
    by_gold, by_judge = before
    gold_score, judge_score = score
    after_gold, after_judge = {}, {}
    for name, order in orders.items():
        adopted = {
            query_id: best_first(order[query_id], grades, depth)
            for query_id, grades in judge.items()
            if query_id in order
        }
        after_gold[name], after_judge[name] = gold_score(adopted), judge_score(adopted)
    best = judge_orders(orders, judge, depth)
    run_gold, run_judge = gold_score(best), judge_score(best)
    names = list(orders)
    return JudgeAsReranker(
        depth,
        tau_before=kendall(by_gold, by_judge, names),
        tau_after=kendall(after_gold, after_judge, names),
        gold_change=sum(after_gold[name] - by_gold[name] for name in names) / len(names),
        run_gold=run_gold,
        run_judge=run_judge,
        run_gold_rank=_rank(run_gold, by_gold),
        run_judge_rank=_rank(run_judge, by_judge),
    )


def _rank(score: float, scores: Scores) -> int:
    # Means that are equal on paper may differ in their last bits.
    return 1 + sum(value > score + 1e-12 for value in scores.values())


def judge_orders(orders: Mapping[str, Orders], judge: Qrels, depth: int) -> Orders:
    """Return the rankings of a judge of whatever is among the first ``depth`` of any system.

    Documents of one label come in the order of their best rank in any system, then of their ids.
    """
    rankings = {}
    for query_id, grades in judge.items():
        ranks: dict[str, int] = {}
        for order in orders.values():
            for rank, doc_id in enumerate(order.get(query_id, ())[:depth]):
                ranks[doc_id] = min(rank, ranks.get(doc_id, rank))
        rankings[query_id] = sorted(
            ranks, key=lambda doc: (-max(grades.get(doc, 0), 0), ranks[doc], doc)
        )
    return rankings
