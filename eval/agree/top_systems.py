"""Does the judge's best system really beat the others? False rates of autoqrels' report.

The top system is the judge's (the greatest sum of its scores). For every other one, a one-sided
paired t test asks whether the top one is better, once on judge scores and once on gold scores,
each at 0.05 / (n − 1). With the gold's answers as the truth:

    FPR = FP / (FP + TN)    wins the judge alone claims, of those the gold does not support
    FNR = FN / (FN + TP)    wins the judge misses, of those the gold supports

(MacAvaney and Soldaini 2023, repro/oneshot/table2.py; a topic that a system lacks scores 0.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranklens.data.errors import InvalidInputError
from ranklens.data.score_table import ScoreTable
from ranklens.eval.stats.family import LEVEL
from ranklens.eval.stats.tests import differences, p_values


@dataclass(frozen=True, slots=True)
class TopSystem:
    """The judge's best system and how its wins over the others hold; rates None without any."""

    system: str
    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def fpr(self) -> float | None:
        """FP / (FP + TN)."""
        return self.fp / (self.fp + self.tn) if self.fp + self.tn else None

    @property
    def fnr(self) -> float | None:
        """FN / (FN + TP)."""
        return self.fn / (self.fn + self.tp) if self.fn + self.tp else None


def top_system(gold: ScoreTable, judge: ScoreTable) -> TopSystem:
    """Compare the judge's best system with all others, under both tables.

    Of several best ones it is the first. A system with the same score on every topic is not
    worse. Raises InvalidInputError for fewer than two systems, and when the systems differ.
    """
    if gold.systems != judge.systems or len(gold.systems) < 2:
        raise InvalidInputError("gold and judge need scores of the same two systems or more")
    top = int(judge.values.sum(axis=1).argmax())
    claimed, true = _beaten(judge.values, top), _beaten(gold.values, top)
    return TopSystem(
        judge.systems[top],
        tp=int((claimed & true).sum()),
        fp=int((claimed & ~true).sum()),
        fn=int((~claimed & true).sum()),
        tn=int((~claimed & ~true).sum()),
    )


def _beaten(values: NDArray[np.float64], top: int) -> NDArray[np.bool_]:
    """Return, for every system but the top one, whether that is significantly better."""
    others = np.delete(values, top, axis=0)
    gaps = differences(np.broadcast_to(values[top], others.shape), others)
    # Half of the two-sided p-value, where the top system is the better one.
    return np.asarray((gaps.mean(axis=1) > 0) & (p_values("t", gaps) / 2 < LEVEL / len(gaps)))
