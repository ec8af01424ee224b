"""From scores to probabilities: a map fitted on judged documents, kept in a profile.

    platt      p(s) = 1 / (1 + exp(−(slope · s + intercept))), slope ≥ 0
    isotonic   the non-decreasing function of least squares, linear between its steps

Both keep the order of scores. A map holds for lists like those it was fitted on: attention is
shared among all documents of a prompt, so ``fitted_on`` says how many there were.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ranklens.data.errors import InvalidInputError, NumericalError

Method = Literal["platt", "isotonic"]
Pair = tuple[float, bool]
"""A score, and whether the document is relevant."""

_STEPS = 100
_CONVERGED = 1e-10


@dataclass(frozen=True, slots=True)
class FittedOn:
    """What a map was fitted on; other models and list lengths have other scores.

    ``brier`` and ``ece`` are measured on queries that were held out, see ``held_out``.
    """

    collection: str
    model: str
    depth: int
    queries: int
    documents: int
    relevant: int
    candidates: str | None = None
    revision: str | None = None
    relevance_level: int = 1
    brier: float | None = None
    ece: float | None = None


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """A non-decreasing map of scores to [0, 1].

    ``of`` says which scores it takes: the reranker's own, or their z within the list (see
    ``scales``). ``platt`` has ``slope`` and ``intercept``, ``isotonic`` has ``knots``: (score,
    value) pairs, scores increasing; between them the map is linear, outside constant.
    """

    method: Method
    of: Literal["raw", "z"] = "raw"
    slope: float | None = None
    intercept: float | None = None
    knots: tuple[tuple[float, float], ...] | None = None
    fitted_on: FittedOn | None = None

    def __post_init__(self) -> None:
        platt = self.method == "platt"
        line = self.slope is not None and self.intercept is not None
        if platt != line or platt != (self.knots is None):
            raise InvalidInputError(
                "score_map: platt has slope and intercept, isotonic has knots, and nothing else"
            )
        if self.slope is not None and self.slope < 0:
            raise InvalidInputError(
                f"score_map.slope must not be negative: {self.slope} would turn the order round"
            )
        if self.knots is not None:
            scores, values = [s for s, _ in self.knots], [v for _, v in self.knots]
            pairs = zip(self.knots, self.knots[1:], strict=False)
            rising = all(one[0] < two[0] and one[1] <= two[1] for one, two in pairs)
            if not scores or not rising or not 0 <= values[0] <= values[-1] <= 1:
                raise InvalidInputError(
                    "score_map.knots must be [score, value] pairs with increasing scores and "
                    "values in [0, 1] that do not decrease"
                )

    def __call__(self, score: float) -> float:
        """Return the probability for a score."""
        if self.knots is None:
            assert self.slope is not None
            assert self.intercept is not None
            return _sigmoid(self.slope * score + self.intercept)
        place = bisect.bisect_right(self.knots, score, key=lambda knot: knot[0])
        if place in (0, len(self.knots)):
            return self.knots[min(place, len(self.knots) - 1)][1]
        (left, low), (right, high) = self.knots[place - 1], self.knots[place]
        share = (score - left) / (right - left)
        # Rounding must not carry a value over its neighbours.
        return min(max(low + (high - low) * share, low), high)


def check_labels(queries: Sequence[Sequence[bool]], folds: int) -> None:
    """Raise InvalidInputError for labels by query that no map could be fitted on and checked."""
    _check_labels([label for labels in queries for label in labels])
    _check_folds(len(queries), folds)


def _check_labels(labels: Sequence[bool]) -> None:
    relevant = sum(labels)
    if not 0 < relevant < len(labels):
        raise InvalidInputError(
            f"{relevant} of {len(labels)} documents are relevant; a map to probabilities needs "
            "relevant and irrelevant ones: take more queries or a greater depth"
        )


def _check_folds(queries: int, folds: int) -> None:
    if not 2 <= folds <= queries:
        raise InvalidInputError(
            f"{queries} queries cannot be held out in {folds} folds; take more queries"
        )


def fit_score_map(
    pairs: Sequence[Pair], method: Method = "platt", of: Literal["raw", "z"] = "raw"
) -> ScoreMap:
    """Fit a map to scores of documents that are known to be relevant or not.

    Raises InvalidInputError when all documents are relevant or none is, or a score is not
    finite. Where relevant documents do not score higher, the best map that keeps the order is
    a constant, and that is what comes back.
    """
    _check_labels([label for _, label in pairs])
    if not all(math.isfinite(score) for score, _ in pairs):
        raise InvalidInputError("a score is NaN or Inf")
    if method == "isotonic":
        return ScoreMap("isotonic", of, knots=_isotonic(pairs))
    slope, intercept = _platt(pairs)
    return ScoreMap("platt", of, slope=slope, intercept=intercept)


def held_out(
    queries: Sequence[Sequence[Pair]], method: Method = "platt", *, folds: int = 5, seed: int = 0
) -> list[Pair]:
    """Return (probability, label) of every document, from maps that did not see its query.

    Queries are dealt into ``folds`` at random; a fold's documents get their probabilities from
    a map fitted on the others. Raises InvalidInputError for fewer queries than folds, or when
    the others of a fold have no relevant document.
    """
    _check_folds(len(queries), folds)
    order = random.Random(seed).sample(range(len(queries)), len(queries))
    found: list[Pair] = []
    for fold in range(folds):
        out = set(order[fold::folds])
        rest = [pair for i, query in enumerate(queries) if i not in out for pair in query]
        fitted = fit_score_map(rest, method)
        found += [(fitted(score), label) for i in sorted(out) for score, label in queries[i]]
    return found


def _platt(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return slope and intercept of greatest likelihood, by Newton's method.

    As Platt (1999) does, targets are (N₊ + 1) / (N₊ + 2) and 1 / (N₋ + 2) in place of 1 and 0,
    so that the slope stays finite where scores separate the classes. Scores are standardised on
    the way; steps are halved until the loss falls (Lin, Lin and Weng 2007).
    """
    count = len(pairs)
    centre = math.fsum(score for score, _ in pairs) / count
    spread = math.sqrt(math.fsum((score - centre) ** 2 for score, _ in pairs) / count)
    positive = sum(1 for _, label in pairs if label)
    high, low = (positive + 1) / (positive + 2), 1 / (count - positive + 2)
    mean = (positive * high + (count - positive) * low) / count
    constant = math.log(mean / (1 - mean))
    if spread == 0:
        return 0.0, constant
    points = [((score - centre) / spread, high if label else low) for score, label in pairs]

    def loss(a: float, b: float) -> float:
        # −t log p − (1 − t) log(1 − p), in the form that does not overflow.
        logits = ((a * x + b, t) for x, t in points)
        return math.fsum(max(f, 0) - t * f + math.log1p(math.exp(-abs(f))) for f, t in logits)

    a, b = 0.0, constant
    current = loss(a, b)
    for _ in range(_STEPS):
        rows = [(x, t, _sigmoid(a * x + b)) for x, t in points]
        grad_a = math.fsum((p - t) * x for x, t, p in rows)
        grad_b = math.fsum(p - t for _, t, p in rows)
        if max(abs(grad_a), abs(grad_b)) < _CONVERGED * count:
            break
        weights = [(x, max(p * (1 - p), 1e-12)) for x, _, p in rows]
        aa = math.fsum(w * x * x for x, w in weights)
        ab = math.fsum(w * x for x, w in weights)
        bb = math.fsum(w for _, w in weights)
        det = aa * bb - ab * ab
        step_a = (bb * grad_a - ab * grad_b) / det
        step_b = (aa * grad_b - ab * grad_a) / det
        size = 1.0
        while (trial := loss(a - size * step_a, b - size * step_b)) >= current and size > 1e-10:
            size /= 2
        if trial >= current:
            break
        a, b, current = a - size * step_a, b - size * step_b, trial
    else:
        raise NumericalError(f"the fit of a Platt map did not settle in {_STEPS} steps")
    if a <= 0:
        # The loss is convex: of all slopes that keep the order, 0 has the least.
        return 0.0, constant
    return a / spread, b - a * centre / spread


def _isotonic(pairs: Sequence[Pair]) -> tuple[tuple[float, float], ...]:
    """Return the knots of the isotonic regression, by pooling adjacent violators.

    Every block of equal values has a knot at its lowest and at its highest score.
    """
    at: dict[float, list[int]] = {}
    for score, label in pairs:
        at.setdefault(score, []).append(label)
    # Blocks of [sum of labels, number of documents, lowest score, highest score].
    blocks: list[tuple[int, int, float, float]] = []
    for score in sorted(at):
        total, count, first = sum(at[score]), len(at[score]), score
        while blocks and blocks[-1][0] * count >= total * blocks[-1][1]:
            before = blocks.pop()
            total, count, first = total + before[0], count + before[1], before[2]
        blocks.append((total, count, first, score))
    knots: dict[float, float] = {}
    for total, count, first, last in blocks:
        knots[first] = knots[last] = total / count
    return tuple(knots.items())


def _sigmoid(logit: float) -> float:
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))
