"""How far a mean over queries may be off: the percentile bootstrap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 1000
_DRAWS = 1 << 22
"""Drawn queries that are held at once: 32 MB."""


def mean_interval(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% interval of the mean of one value or more.

    1,000 resamples of a fixed seed: as many values of whatever measure are drawn alike.
    """
    array = np.asarray(values, dtype=np.float64)
    means = np.concatenate([array[drawn].mean(axis=1) for drawn in _resamples(len(array))])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@lru_cache(maxsize=1)
def _few_resamples(queries: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, queries, (_RESAMPLES, queries))


def _resamples(queries: int) -> Iterable[NDArray[np.int64]]:
    """Yield the queries of all resamples, some rows at a time."""
    if _RESAMPLES * queries <= _DRAWS:
        yield _few_resamples(queries)
        return
    generator = np.random.default_rng(0)
    rows = max(_DRAWS // queries, 1)
    for start in range(0, _RESAMPLES, rows):
        yield generator.integers(0, queries, (min(rows, _RESAMPLES - start), queries))
