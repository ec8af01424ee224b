"""Whether anything in a list stands out, or nothing is relevant."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError
from ranklens.rerank.base import Ranking
from ranklens.rerank.profile import Profile
from ranklens.rerank.scales import NORMAL, centre_and_spread

FEWEST = 5
"""In a shorter list the best document cannot be told from the spread of the others."""
_DRAWS = 4000


@dataclass(frozen=True, slots=True)
class Margin:
    """How far a ranking's best document stands out, in units of the list's spread.

    ``above_rest``: its z, above the list's median. ``above_null``: above 0, where the query
    draws no more attention than the content-free one; None for profiles without a null.
    ``needed``: what the best of as many documents, all alike, would exceed by chance with
    probability ``chance`` if their scores were normal; None for lists below ``FEWEST``.
    """

    best: float
    above_rest: float
    above_null: float | None
    needed: float | None

    @property
    def nothing_relevant(self) -> bool:
        """Whether the best document lies at or below the null, or within reach of chance.

        A list in which most documents are relevant also has none that stands out: this is for
        first stages that bring many documents for few relevant ones. Small models score
        near misses as high as hits; see how it does with yours before relying on it.
        """
        if self.above_null is not None and self.above_null <= 0:
            return True
        return self.needed is not None and self.above_rest < self.needed


def margin(ranking: Ranking, *, chance: float = 0.05, has_null: bool = True) -> Margin:
    """Return the margin of a ranking's best document.

    ``has_null`` says that a score of 0 means "no more than the content-free query", see
    ``scores_have_null``. Raises InvalidInputError for an empty ranking.
    """
    if not ranking:
        raise InvalidInputError("an empty ranking has no margin")
    if not 0 < chance < 1:
        raise InvalidInputError(f"chance must lie between 0 and 1, got {chance}")
    best = ranking[0].score
    centre, spread = centre_and_spread(ranking)
    # Without a spread (one document, or all alike) only the sign of a difference is known.
    unit = spread or 1.0
    needed = _best_by_chance(len(ranking), chance) if len(ranking) >= FEWEST else None
    return Margin(best, (best - centre) / unit, best / unit if has_null else None, needed)


@functools.lru_cache(maxsize=256)
def _best_by_chance(documents: int, chance: float) -> float:
    """Return what the highest z of normal scores exceeds with probability ``chance``.

    Drawn, not looked up: the spread is estimated from the same few scores, so the highest z is
    well above the highest of as many normal numbers.
    """
    import numpy as np

    scores = np.random.default_rng(0).standard_normal((_DRAWS, documents))
    centre = np.median(scores, axis=1, keepdims=True)
    spread = NORMAL * np.median(np.abs(scores - centre), axis=1)
    highest = (scores.max(axis=1) - centre[:, 0]) / spread
    return float(np.quantile(highest, 1 - chance))


def scores_have_null(profile: Profile) -> bool:
    """Return whether a profile's scores are 0 for a query that is no query.

    Not so without a content-free query, and for scores that are a softmax over the list.
    """
    return bool(profile.calibration.nulls) and profile.calibration.temperature is None
