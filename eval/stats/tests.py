"""Paired two-sided tests of two systems on the same topics.

All of them test the differences per topic, a - b. What holds for each:

* Differences are rounded to 12 decimals: 0.3 - 0.2 and 0.2 - 0.1 are equal, and below that
  two systems are the same.
* Where no topic differs, p is 1. With one topic p is 1 too: it cannot show anything.
* A p-value is never NaN.

The tests by chance (``randomisation`` and ``bootstrap``) draw from a generator with a seed: the
same scores, seed and number of samples give the same p-value.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ranklens.data.errors import InvalidInputError, UsageError

TESTS = ("t", "wilcoxon", "randomisation", "bootstrap")
SAMPLES = 10_000
_DECIMALS = 12
# Sums of rounded differences that are equal on paper differ by far less than this.
_SLACK = 1e-10
_BLOCK = 500
_LARGEST_EXACT_RANKS = 50
_LARGEST_ENUMERATED = 13

Floats = NDArray[np.float64]


def paired_t(a: ArrayLike, b: ArrayLike) -> float:
    """Return the p-value of Student's paired t test.

    When all differences are the same and not zero, the statistic is infinite and p is 0.
    """
    return _one("t", a, b)


def wilcoxon(a: ArrayLike, b: ArrayLike) -> float:
    """Return the p-value of Wilcoxon's signed-rank test.

    Topics without a difference are dropped. The distribution is exact for up to 50 topics
    whose differences are not tied in size, and for up to 13 where they are; else it is normal,
    with the correction for ties and none for continuity.
    """
    return _one("wilcoxon", a, b)


def randomisation(a: ArrayLike, b: ArrayLike, permutations: int = SAMPLES, seed: int = 0) -> float:
    """Return the p-value of Fisher's randomisation test on the mean difference.

    The two systems' scores of a topic change places by chance, in ``permutations`` samples;
    p = (b + 1) / (B + 1) with b the samples at least as extreme as the data. For up to 13
    topics, when ``permutations`` is no less than the 2^topics ways to do so, each way is taken
    once and p is exact.
    """
    return _one("randomisation", a, b, permutations, seed)


def bootstrap(a: ArrayLike, b: ArrayLike, resamples: int = SAMPLES, seed: int = 0) -> float:
    """Return the p-value of the paired bootstrap test on the mean difference, by shifting.

    The differences, less their mean, are drawn with replacement; p = (b + 1) / (B + 1) with b
    the samples whose mean is at least as far from 0 as that of the data.
    """
    return _one("bootstrap", a, b, resamples, seed)


def differences(a: ArrayLike, b: ArrayLike) -> Floats:
    """Return a - b per topic as the tests see it, rounded to 12 decimals.

    Raises InvalidInputError for arrays of different shapes, without topics, or not finite.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise InvalidInputError(
            f"paired tests need scores of the same topics, got {first.shape} and {second.shape}"
        )
    if first.ndim == 0 or first.shape[-1] == 0:
        raise InvalidInputError("a test needs the scores of at least one topic")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InvalidInputError("a test needs finite scores; one is NaN or infinite")
    return np.round(first - second, _DECIMALS)


def p_values(test: str, rows: Floats, samples: int = SAMPLES, seed: int = 0) -> Floats:
    """Return a p-value for each row of differences, [pairs, topics], as ``differences`` gives them.

    Much quicker than pair by pair; the tests by chance use the same samples for every pair.
    Raises UsageError for a test that is not one of TESTS and for less than one sample.
    """
    if test not in TESTS:
        raise UsageError(f"unknown test {test!r}; the tests are {', '.join(TESTS)}")
    if samples < 1:
        raise UsageError(f"a test by chance needs at least one sample, got {samples}")
    result = np.ones(len(rows))
    differ = np.flatnonzero(rows.any(axis=1))
    if rows.shape[1] < 2 or not len(differ):
        return result
    chosen = rows[differ]
    if test == "t":
        result[differ] = _t(chosen)
    elif test == "wilcoxon":
        result[differ] = _wilcoxon(chosen)
    elif test == "randomisation":
        result[differ] = _randomisation(chosen, samples, seed)
    else:
        result[differ] = _bootstrap(chosen, samples, seed)
    return np.minimum(result, 1.0)


def _one(test: str, a: ArrayLike, b: ArrayLike, samples: int = SAMPLES, seed: int = 0) -> float:
    row = differences(a, b)
    if row.ndim != 1:
        raise InvalidInputError(f"expected one score a topic, got an array of {row.shape}")
    return float(p_values(test, row[None], samples, seed)[0])


def _t(rows: Floats) -> Floats:
    # scipy.stats takes a second to import, this function of it a tenth.
    from scipy.special import stdtr

    topics = rows.shape[1]
    constant = np.ptp(rows, axis=1) == 0
    error = rows.std(axis=1, ddof=1) / np.sqrt(topics)
    statistic = np.abs(rows.mean(axis=1)) / np.where(constant, 1.0, error)
    return np.where(constant, 0.0, 2 * stdtr(topics - 1, -statistic))


def _wilcoxon(rows: Floats) -> Floats:
    from scipy.stats import rankdata
    from scipy.stats import wilcoxon as signed_rank

    sizes = np.sort(np.abs(rows), axis=1)
    tied = ((np.diff(sizes, axis=1) == 0) & (sizes[:, 1:] > 0)).any(axis=1)
    used = np.count_nonzero(rows, axis=1)
    few = tied & (used <= _LARGEST_ENUMERATED)
    exact = ~tied & (used <= _LARGEST_EXACT_RANKS)
    result = np.empty(len(rows))
    for position in np.flatnonzero(few):
        row = rows[position][rows[position] != 0]
        result[position] = _enumerated((rankdata(np.abs(row)) * np.sign(row))[None])[0]
    for chosen, method in ((exact, "exact"), (~exact & ~few, "asymptotic")):
        if chosen.any():
            result[chosen] = signed_rank(rows[chosen], axis=1, method=method).pvalue
    return result


def _randomisation(rows: Floats, samples: int, seed: int) -> Floats:
    topics = rows.shape[1]
    if topics <= _LARGEST_ENUMERATED and 2**topics <= samples:
        return _enumerated(rows)
    observed = np.abs(rows.sum(axis=1)) - _SLACK
    generator = np.random.default_rng(seed)
    count = np.zeros(len(rows))
    for size in _blocks(samples):
        signs = generator.integers(0, 2, (size, topics), dtype=np.int8) * 2 - 1
        count += _extreme(signs, rows, observed)
    return (count + 1) / (samples + 1)


def _enumerated(rows: Floats) -> Floats:
    """Return the share of all ways to give the rows signs that are as extreme as the data."""
    topics = rows.shape[1]
    observed = np.abs(rows.sum(axis=1)) - _SLACK
    count = np.zeros(len(rows))
    for start in range(0, 2**topics, _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, 2**topics))
        signs = (numbers[:, None] >> np.arange(topics) & 1) * 2 - 1
        count += _extreme(signs, rows, observed)
    return np.asarray(count / 2**topics)


def _bootstrap(rows: Floats, samples: int, seed: int) -> Floats:
    topics = rows.shape[1]
    observed = np.abs(rows.sum(axis=1)) - _SLACK
    centred = rows - rows.mean(axis=1, keepdims=True)
    generator = np.random.default_rng(seed)
    count = np.zeros(len(rows))
    for size in _blocks(samples):
        drawn = generator.multinomial(topics, np.full(topics, 1 / topics), size)
        count += _extreme(drawn, centred, observed)
    return (count + 1) / (samples + 1)


def _extreme(weights: NDArray[np.integer], rows: Floats, observed: Floats) -> NDArray[np.intp]:
    """Return how many samples, [samples, topics], have a sum as extreme as each row's own."""
    reached = np.abs(weights.astype(np.float64) @ rows.T) >= observed
    return np.asarray(np.count_nonzero(reached, axis=0))


def _blocks(samples: int) -> Iterator[int]:
    for start in range(0, samples, _BLOCK):
        yield min(_BLOCK, samples - start)
