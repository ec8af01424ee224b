"""Do gold and judge agree on which systems differ? Every pair of systems, tested under both.

                     same sign of the mean difference    opposite sign
    both             AA  active agreement                AD  active disagreement
    gold only        MA_g  mixed agreement               MD_g  mixed disagreement
    judge only       MA_j                                MD_j
    neither          PA  passive agreement               PD  passive disagreement

A pair counts as significant when its p-value, corrected within the family of all n(n−1)/2 pairs
of one table, is below the level. A mean difference of 0 is not significant and has the sign of
the other side. After Otero, Parapar and Ferro (2023) and Otero, Parapar and Barreiro (2025).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.score_table import ScoreTable
from ranklens.eval.stats.family import LEVEL, TUKEY, check_correction, check_test, corrected
from ranklens.eval.stats.tests import differences, p_values


@dataclass(frozen=True, slots=True)
class Method:
    """How pairs are tested: a test and a correction, by their names.

    ``tukey`` is the randomised Tukey HSD, a test of all pairs at once: ``test`` is then None.
    Raises UsageError for other names.
    """

    test: str | None = "t"
    correction: str = "holm"
    seed: int = 0

    def __post_init__(self) -> None:
        check_correction(self.correction)
        if self.correction == TUKEY:
            if self.test is not None:
                raise UsageError(
                    f"the correction tukey is a test of its own; it excludes {self.test!r}"
                )
        else:
            check_test(self.test)

    def __str__(self) -> str:
        if self.correction == TUKEY:
            return "randomised Tukey HSD"
        return f"{self.test} test, {self.correction} correction"


@dataclass(frozen=True, slots=True)
class Decisions:
    """For each pair of systems i < j: sign of mean(i) − mean(j), and whether it is significant."""

    signs: NDArray[np.int64]
    significant: NDArray[np.bool_]


def decisions(table: ScoreTable, method: Method) -> Decisions:
    """Test every pair of systems of a table.

    Raises InvalidInputError for fewer than two systems.
    """
    if len(table.systems) < 2:
        raise InvalidInputError(f"pairs need two systems or more, got {len(table.systems)}")
    first, second = np.triu_indices(len(table.systems), k=1)
    rows = differences(table.values[first], table.values[second])
    # Differences are rounded: sums of those that cancel out are 0 but for the last bits.
    signs = np.sign(np.round(rows.mean(axis=1), 12)).astype(np.int64)
    raw = None if method.test is None else p_values(method.test, rows, seed=method.seed)
    adjusted = corrected(raw, table.values, (first, second), method.correction, seed=method.seed)
    return Decisions(signs, (adjusted < LEVEL) & (signs != 0))


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with the number it is a share of; ``value`` is None where that is 0."""

    value: float | None
    denominator: str
    count: int


@dataclass(frozen=True, slots=True)
class Cells:
    """Pairs of systems by what gold and judge say of them; see the module."""

    aa: int
    ad: int
    ma_g: int
    ma_j: int
    md_g: int
    md_j: int
    pa: int
    pd: int

    @property
    def pairs(self) -> int:
        """All pairs, n(n−1)/2."""
        return sum(asdict(self).values())

    @property
    def rates(self) -> Mapping[str, Rate]:
        """The derived rates by name.

        A pair in AD is a gold claim lost and a false claim of the judge, so for BAC and MCC
        TP + FN + FP + TN is n(n−1)/2 + AD.
        """
        mixed = self.ma_g + self.ma_j + self.md_g + self.md_j
        lost = self.ma_g + self.md_g + self.ad
        false = self.ma_j + self.md_j + self.ad
        silent = self.pa + self.pd
        unsupported = self.ma_j + self.md_j
        return {
            "PAA": _rate(2 * self.aa, 2 * self.aa + self.ad + mixed, "2AA + AD + MA + MD"),
            "PPA": _rate(2 * self.pa, 2 * self.pa + self.pd + mixed, "2PA + PD + MA + MD"),
            "precision": _rate(self.aa, self.aa + false, "AA + MA_j + MD_j + AD"),
            "recall": _rate(self.aa, self.aa + lost, "AA + MA_g + MD_g + AD"),
            "FPR": _rate(unsupported, unsupported + silent, "MA_j + MD_j + PA + PD"),
            "publication bias": _rate(false, self.aa + false, "AA + MA_j + MD_j + AD"),
            "BAC": _balanced(self.aa, lost, false, silent),
            "MCC": _matthews(self.aa, lost, false, silent),
        }


def _balanced(tp: int, fn: int, fp: int, tn: int) -> Rate:
    value = (tp / (tp + fn) + tn / (tn + fp)) / 2 if tp + fn and tn + fp else None
    return Rate(value, "TP + FN and TN + FP, a half each", tp + fn + fp + tn)


def _matthews(tp: int, fn: int, fp: int, tn: int) -> Rate:
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    value = (tp * tn - fp * fn) / math.sqrt(product) if product else None
    return Rate(value, "root of (TP+FP)(TP+FN)(TN+FP)(TN+FN)", tp + fn + fp + tn)


def _rate(count: int, of: int, denominator: str) -> Rate:
    return Rate(count / of if of else None, denominator, of)


def cells(gold: Decisions, judge: Decisions) -> Cells:
    """Count the pairs of the same systems by the decisions of gold and judge."""
    if gold.signs.shape != judge.signs.shape:
        raise InvalidInputError("gold and judge decisions are not of the same pairs of systems")
    same = gold.signs * judge.signs >= 0
    g, j = gold.significant, judge.significant

    def count(chosen: NDArray[np.bool_]) -> tuple[int, int]:
        return int((chosen & same).sum()), int((chosen & ~same).sum())

    (aa, ad), (ma_g, md_g), (ma_j, md_j), (pa, pd) = map(count, (g & j, g & ~j, j & ~g, ~g & ~j))
    return Cells(aa, ad, ma_g, ma_j, md_g, md_j, pa, pd)
