"""Randomised Tukey HSD: all pairs of systems tested at once, over topics."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.eval.stats.tests import SAMPLES

# Values permuted at once: 16 MB of float64.
_AT_ONCE = 2**21
_SLACK = 1e-12


def randomised_tukey(
    scores: ArrayLike, permutations: int = SAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Return the p-value of every pair of systems, [systems, systems], 1 on the diagonal.

    ``scores`` is [systems, topics]. In each permutation the systems' scores change places
    within every topic, and the range of the means is kept: p = (b + 1) / (B + 1), b the
    permutations whose range is at least the pair's difference. As every pair is held against
    the range over all systems, the values need no further correction: they bound the chance of
    any false rejection. (Carterette, "Multiple testing in statistical analysis of systems-based
    information retrieval experiments", TOIS 2012.) With one topic p is 1.

    Raises InvalidInputError for less than two systems, no topic, or a score that is not finite,
    UsageError for less than one permutation.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 1:
        raise InvalidInputError(
            f"Tukey's test needs scores of two systems or more on the same topics, "
            f"got an array of {table.shape}"
        )
    if not np.isfinite(table).all():
        raise InvalidInputError("a test needs finite scores; one is NaN or infinite")
    if permutations < 1:
        raise UsageError(f"a test by chance needs at least one sample, got {permutations}")
    systems, topics = table.shape
    if topics == 1:
        return np.ones((systems, systems))
    ranges = np.sort(_ranges(table, permutations, seed))
    means = table.mean(axis=1)
    gaps = np.abs(means[:, None] - means)
    reached = permutations - np.searchsorted(ranges, gaps - _SLACK, side="left")
    return np.asarray((reached + 1) / (permutations + 1))


def _ranges(table: NDArray[np.float64], permutations: int, seed: int) -> NDArray[np.float64]:
    """Return the range of the systems' means in each permutation."""
    generator = np.random.default_rng(seed)
    block = max(1, _AT_ONCE // table.size)
    ranges = np.empty(permutations)
    for start in range(0, permutations, block):
        size = min(block, permutations - start)
        shuffled = generator.permuted(np.broadcast_to(table.T, (size, *table.T.shape)), axis=2)
        ranges[start : start + size] = np.ptp(shuffled.mean(axis=1), axis=1)
    return ranges
