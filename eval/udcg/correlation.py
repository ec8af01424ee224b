"""How well a measure of the context agrees with how well the reader answers, question by question.

Spearman's rank correlation, tied values at the mean of their ranks, with a 95% interval from the
percentile bootstrap over questions. A resample in which one side is constant has no correlation
and is left out of the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranklens.data.errors import InvalidInputError

_RESAMPLES = 1000
_CHUNK = 100


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's ρ over ``questions``, and its interval; None where a side is constant."""

    rho: float | None
    ci95: tuple[float, float] | None
    questions: int


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, None where a side is constant or has one value.

    Raises InvalidInputError for sides of different lengths.
    """
    if len(a) != len(b):
        raise InvalidInputError(f"{len(a)} values cannot be correlated with {len(b)}")
    if not len(a):
        return None
    [rho] = _spearman_rows(np.array([a], dtype=float), np.array([b], dtype=float)).tolist()
    return None if np.isnan(rho) else rho


def correlation(measure: Sequence[float], accuracy: Sequence[float], seed: int = 0) -> Correlation:
    """Return Spearman's correlation of a measure with accuracy, both by question, in one order."""
    rho = spearman(measure, accuracy)
    if rho is None:
        return Correlation(None, None, len(measure))
    x, y = np.array(measure, dtype=float), np.array(accuracy, dtype=float)
    generator = np.random.default_rng(seed)
    found: list[NDArray[np.float64]] = []
    # In parts: for thousands of questions all resamples at once would be gigabytes.
    for _ in range(_RESAMPLES // _CHUNK):
        picked = generator.integers(0, len(x), (_CHUNK, len(x)))
        found.append(_spearman_rows(x[picked], y[picked]))
    values = np.concatenate(found)
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Correlation(rho, (float(low), float(high)), len(x))


def _spearman_rows(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Pearson's correlation of the ranks, row by row; NaN for a constant row."""
    from scipy.stats import rankdata

    x, y = rankdata(a, axis=1), rankdata(b, axis=1)
    x -= x.mean(axis=1, keepdims=True)
    y -= y.mean(axis=1, keepdims=True)
    scale = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    rho = np.full(len(scale), np.nan)
    np.divide((x * y).sum(axis=1), scale, out=rho, where=scale > 0)
    np.clip(rho, -1, 1, out=rho)
    return rho
