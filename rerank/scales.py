"""Scales on which the scores of a ranking can be read, and cut off.

    raw           the reranker's: under ICR 0 is a document to which the query pays as much
                  attention as the content-free query does
    softmax       shares of the list, adding up to 1
    z             (s − median) / spread: how far a document lies above the others of its list
    probability   the profile's score map: how likely such a document is relevant

All keep the order. The spread is 1.4826 · median(|s − median|), which equals the standard
deviation for normal scores and does not grow with the few relevant documents that stand out;
where more than half of the scores are alike, so that it is 0, it is the standard deviation.
Only ``probability``, and ``raw`` with care, can be compared between queries.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Literal

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.score_map import ScoreMap
from ranklens.rerank.base import Ranking, Reranker

Scale = Literal["raw", "softmax", "z", "probability"]
SCALES: tuple[Scale, ...] = ("raw", "softmax", "z", "probability")
NORMAL = 1.4826
"""The standard deviation of a normal distribution over its median absolute deviation."""


def softmax(ranking: Ranking, temperature: float | None = None) -> list[float]:
    """Return each document's share, exp(s / T) over the sum of the list's, in its order.

    ``temperature`` None takes the list's standard deviation: scores of attention have no unit,
    and lists of other lengths or models would otherwise come out flat or all on one document.
    """
    if temperature is not None and not (temperature > 0 and math.isfinite(temperature)):
        raise InvalidInputError(f"the temperature must be positive and finite: {temperature}")
    scores = [ranked.score for ranked in ranking]
    if not scores:
        return []
    return shares(scores, temperature or statistics.pstdev(scores) or 1.0)


def shares(scores: Sequence[float], temperature: float) -> list[float]:
    """Return exp(s / temperature) over the sum of these, for at least one score."""
    highest = max(scores)
    weights = [math.exp((score - highest) / temperature) for score in scores]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def z(ranking: Ranking) -> list[float]:
    """Return how many spreads each document lies above the list's median, in its order.

    All are 0 where all scores are alike, as in a list of one.
    """
    centre, unit = centre_and_spread(ranking)
    return [(ranked.score - centre) / unit if unit else 0.0 for ranked in ranking]


def centre_and_spread(ranking: Ranking) -> tuple[float, float]:
    """Return the median of a ranking's scores and their spread; see the module."""
    scores = [ranked.score for ranked in ranking]
    if not scores:
        return 0.0, 0.0
    centre = statistics.median(scores)
    deviation = statistics.median(abs(score - centre) for score in scores)
    return centre, NORMAL * deviation or statistics.pstdev(scores)


def probabilities(ranking: Ranking, score_map: ScoreMap) -> list[float]:
    """Return each document's probability of being relevant, in the ranking's order."""
    values = z(ranking) if score_map.of == "z" else [ranked.score for ranked in ranking]
    return [score_map(value) for value in values]


def unit_interval(ranking: Ranking, score_map: ScoreMap | None = None) -> list[float]:
    """Return scores in [0, 1] for interfaces that promise them, in the ranking's order.

    Probabilities where there is a score map. Without one the logistic function of each z, which
    says how far a document stands out from its list: 0.5 is the list's median, and nothing can
    be compared between lists. No order is turned round; z beyond 36 all become 1.
    """
    if score_map is not None:
        return probabilities(ranking, score_map)
    return [_logistic(value) for value in z(ranking)]


def score_map_of(reranker: Reranker) -> ScoreMap | None:
    """Return the score map of a reranker's profile; None where it has no profile or no map."""
    found: ScoreMap | None = getattr(getattr(reranker, "profile", None), "score_map", None)
    return found


def _logistic(value: float) -> float:
    # Of the two equal forms the one whose exponential cannot overflow.
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))


def rescaled(
    ranking: Ranking,
    scale: Scale,
    *,
    score_map: ScoreMap | None = None,
    temperature: float | None = None,
) -> Ranking:
    """Return the ranking with its scores on another scale; the order stays.

    Raises UsageError for an unknown scale, and for ``probability`` without a score map.
    """
    if scale == "raw":
        return ranking
    if scale == "softmax":
        values = softmax(ranking, temperature)
    elif scale == "z":
        values = z(ranking)
    elif scale == "probability":
        if score_map is None:
            raise UsageError(
                "the profile has no score_map, so its scores have no probabilities; "
                "fit one with `ranklens calibrate`"
            )
        values = probabilities(ranking, score_map)
    else:
        raise UsageError(f"unknown scale {scale!r}; choose {', '.join(SCALES)}")
    return Ranking(
        dataclasses.replace(ranked, score=value)
        for ranked, value in zip(ranking, values, strict=True)
    )


def keep(ranking: Ranking, at_least: float) -> Ranking:
    """Return the documents that score ``at_least`` so much; possibly none."""
    if math.isnan(at_least):
        raise InvalidInputError("the threshold is NaN")
    return Ranking(ranked for ranked in ranking if ranked.score >= at_least)
