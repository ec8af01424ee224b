"""Agreement of two rankings of the same systems, by gold and by judge scores.

    τ_b     Kendall's, ties in either ranking accounted for
    τ_AP    Yilmaz, Aslam and Robertson (2008): a swap at the top weighs more; not symmetric,
            the judge's ranking is the one that is read from above
    RBO     rank-biased overlap, extrapolated, p = 0.9
    ρ       Spearman's
    top k   over the gold's k best systems: τ_b, and the worst fall in rank (drop)

τ_b and ρ take ties as ties. All else needs an order: systems with equal scores are put in the
order of their names, in both rankings, and the number of tied pairs is told. A figure that does
not exist (a correlation of fewer than two systems, or of scores that are all equal) is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranklens.data.errors import InvalidInputError
from ranklens.eval.rbo import rbo_ext

Scores = Mapping[str, float]
Numbers = NDArray[np.float64]

TOPS = (5, 10, 20)
RBO_P = 0.9


@dataclass(frozen=True, slots=True)
class TopAgreement:
    """The gold's ``k`` best systems: τ_b among them, and the one that falls farthest.

    ``drop`` is its rank by the judge minus its rank by the gold, among all systems.
    """

    k: int
    tau: float | None
    drop: int
    dropped: str


@dataclass(frozen=True, slots=True)
class RankAgreement:
    """Agreement of two rankings.

    ``bias`` is the mean of judge − gold scores over systems, ``rmse`` the root of the mean
    square. ``top`` has an entry for each of TOPS that is smaller than the number of systems.
    """

    systems: int
    tau: float | None
    tau_ap: float | None
    rbo: float
    rho: float | None
    top: tuple[TopAgreement, ...]
    gold_winner: str
    judge_winner: str
    bias: float
    rmse: float
    gold_ties: int
    judge_ties: int

    @property
    def same_winner(self) -> bool:
        """Whether gold and judge put the same system first."""
        return self.gold_winner == self.judge_winner


def rank_agreement(gold: Scores, judge: Scores) -> RankAgreement:
    """Compare the rankings that two sets of mean scores give the same systems.

    Raises InvalidInputError for fewer than two systems, and when the systems differ.
    """
    if gold.keys() != judge.keys():
        raise InvalidInputError("gold and judge scores are not of the same systems")
    if len(gold) < 2:
        raise InvalidInputError(f"rankings need two systems or more, got {len(gold)}")
    gold_order, judge_order = ranking(gold), ranking(judge)
    ranks = {system: rank for rank, system in enumerate(judge_order, start=1)}
    differences = vector(judge, gold_order) - vector(gold, gold_order)
    return RankAgreement(
        systems=len(gold),
        tau=kendall(gold, judge, gold_order),
        tau_ap=tau_ap(gold_order, judge_order),
        rbo=rbo_ext(gold_order, judge_order, RBO_P),
        rho=_spearman(vector(gold, gold_order), vector(judge, gold_order)),
        top=tuple(_top(k, gold, judge, gold_order, ranks) for k in TOPS if k < len(gold)),
        gold_winner=gold_order[0],
        judge_winner=judge_order[0],
        bias=float(differences.mean()),
        rmse=math.sqrt(float((differences**2).mean())),
        gold_ties=_ties(gold),
        judge_ties=_ties(judge),
    )


def ranking(scores: Scores) -> list[str]:
    """Return systems by score, descending; equal scores by name."""
    return sorted(scores, key=lambda system: (-scores[system], system))


def vector(scores: Scores, systems: Sequence[str]) -> Numbers:
    """Return the scores of these systems."""
    return np.array([scores[system] for system in systems], dtype=np.float64)


def kendall(gold: Scores, judge: Scores, systems: Sequence[str]) -> float | None:
    """Return τ_b over these systems; None for fewer than two, and for scores all equal."""
    from scipy.stats import kendalltau

    first, second = vector(gold, systems), vector(judge, systems)
    if not _varies(first) or not _varies(second):
        return None
    return float(kendalltau(first, second).statistic)


def tau_ap(gold: Sequence[str], judge: Sequence[str]) -> float | None:
    """Return τ_AP of two orders of the same systems, the judge's read from above.

    2 / (n − 1) · Σ_{i ≥ 2} C(i) / (i − 1) − 1, with C(i) the systems above place i of the
    judge's order that the gold also puts above the system at that place.
    """
    if len(gold) < 2:
        return None
    places = {system: place for place, system in enumerate(gold)}
    order = np.array([places[system] for system in judge])
    shares = [float((order[:i] < order[i]).mean()) for i in range(1, len(order))]
    return 2 * math.fsum(shares) / len(shares) - 1


def _spearman(first: Numbers, second: Numbers) -> float | None:
    from scipy.stats import spearmanr

    if not _varies(first) or not _varies(second):
        return None
    return float(spearmanr(first, second).statistic)


def _varies(scores: Numbers) -> bool:
    return len(scores) > 1 and bool((scores != scores[0]).any())


def _top(
    k: int, gold: Scores, judge: Scores, order: Sequence[str], ranks: Mapping[str, int]
) -> TopAgreement:
    falls = {system: ranks[system] - rank for rank, system in enumerate(order[:k], start=1)}
    dropped = max(falls, key=lambda system: falls[system])
    return TopAgreement(k, kendall(gold, judge, order[:k]), falls[dropped], dropped)


def _ties(scores: Scores) -> int:
    _, counts = np.unique(vector(scores, list(scores)), return_counts=True)
    return int((counts * (counts - 1) // 2).sum())
