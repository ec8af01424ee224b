"""Corrections of p-values for the number of tests in a family."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ranklens.data.errors import InvalidInputError, UsageError

CORRECTIONS = ("none", "bonferroni", "holm", "bh", "by")


def adjust(pvalues: ArrayLike, method: str) -> NDArray[np.float64]:
    """Return the adjusted p-values of one family, in the order given.

    An adjusted value is compared with the level itself. ``bonferroni`` and ``holm`` bound the
    chance of any false rejection, under any dependence of the tests. ``bh`` (Benjamini and
    Hochberg) bounds the expected share of false ones among the rejections for independent or
    positively dependent tests, ``by`` (Benjamini and Yekutieli) for any. Raises UsageError for
    another method, InvalidInputError for a value outside [0, 1].
    """
    if method not in CORRECTIONS:
        raise UsageError(f"unknown correction {method!r}; they are {', '.join(CORRECTIONS)}")
    values = np.asarray(pvalues, dtype=np.float64)
    if values.ndim != 1:
        raise InvalidInputError(f"expected a list of p-values, got an array of {values.shape}")
    if not ((values >= 0) & (values <= 1)).all():
        raise InvalidInputError("a p-value must lie in [0, 1]")
    count = len(values)
    if method == "none" or count == 0:
        return values.copy()
    if method == "bonferroni":
        return np.minimum(values * count, 1.0)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    ranks = np.arange(1, count + 1)
    if method == "holm":
        ordered = np.maximum.accumulate(ordered * (count - ranks + 1))
    else:
        harmonic = (1 / ranks).sum() if method == "by" else 1.0
        stepped = ordered * (harmonic * count / ranks)
        ordered = np.minimum.accumulate(stepped[::-1])[::-1]
    result = np.empty(count)
    result[order] = np.minimum(ordered, 1.0)
    return result
