"""How far probabilities can be believed: Brier score and calibration error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Bin:
    """Documents with alike probabilities: their mean, and the share that is relevant."""

    count: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Figures of a set of probabilities.

    ``brier``: mean of (p − label)². ``base_brier``: that of always predicting the share of
    relevant ones, which a useful map undercuts. ``ece``: mean |predicted − observed| over the
    bins, weighted by their count.
    """

    brier: float
    base_brier: float
    ece: float
    bins: tuple[Bin, ...]


def reliability(pairs: Sequence[tuple[float, bool]], bins: int = 10) -> Reliability:
    """Return the reliability of (probability, label) pairs.

    Bins are of equal width over [0, 1]; empty ones are left out. Raises InvalidInputError
    without pairs and for a probability outside [0, 1].
    """
    if not pairs:
        raise InvalidInputError("there are no probabilities to judge")
    groups: dict[int, list[tuple[float, bool]]] = {}
    for probability, label in pairs:
        if not 0 <= probability <= 1:
            raise InvalidInputError(f"{probability} is no probability")
        groups.setdefault(min(int(probability * bins), bins - 1), []).append((probability, label))
    rows = tuple(
        Bin(
            len(group),
            math.fsum(p for p, _ in group) / len(group),
            sum(label for _, label in group) / len(group),
        )
        for _, group in sorted(groups.items())
    )
    count = len(pairs)
    share = sum(label for _, label in pairs) / count
    return Reliability(
        brier=math.fsum((p - label) ** 2 for p, label in pairs) / count,
        base_brier=share * (1 - share),
        ece=math.fsum(row.count * abs(row.predicted - row.observed) for row in rows) / count,
        bins=rows,
    )
