"""Pairs of systems that are tested together: the level, the corrections, what is out of reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ranklens.data.errors import UsageError
from ranklens.eval.stats.corrections import CORRECTIONS, adjust
from ranklens.eval.stats.tests import SAMPLES, TESTS
from ranklens.eval.stats.tukey import randomised_tukey

LEVEL = 0.05
TUKEY = "tukey"
ALL_CORRECTIONS = (*CORRECTIONS, TUKEY)

Places = Sequence[int] | NDArray[np.int64]


def check_test(test: str | None) -> None:
    """Raise UsageError for a test that does not exist."""
    if test not in TESTS:
        raise UsageError(f"unknown test {test!r}; the tests are {', '.join(TESTS)}")


def check_correction(correction: str) -> None:
    """Raise UsageError for a correction that does not exist."""
    if correction not in ALL_CORRECTIONS:
        raise UsageError(
            f"unknown correction {correction!r}; they are {', '.join(ALL_CORRECTIONS)}"
        )


def corrected(
    pvalues: NDArray[np.float64] | None,
    scores: NDArray[np.float64],
    pairs: tuple[Places, Places],
    correction: str,
    samples: int = SAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the corrected p-values of pairs of systems, the rows of ``scores[system, topic]``.

    ``tukey`` computes its own from the scores of all systems and needs no ``pvalues``.
    """
    if correction == TUKEY or pvalues is None:
        return randomised_tukey(scores, samples, seed)[pairs]
    return adjust(pvalues, correction)


def too_coarse(test: str | None, correction: str, family: int, samples: int = SAMPLES) -> list[str]:
    """Return a warning where so few samples cannot make any of so many pairs significant."""
    # The least p-value of B samples is 1 / (B + 1).
    smallest = 1 / (samples + 1)
    by_chance = test in ("randomisation", "bootstrap")
    if not by_chance or correction not in ("bonferroni", "holm") or smallest * family < LEVEL:
        return []
    return [
        f"no p-value of {samples:,} samples is below {smallest:.2g}: corrected by {correction} for "
        f"{family} pairs, none can be significant; take the correction {TUKEY}, or the test t"
    ]
