"""How large a difference of two systems is, beside whether there is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Effect:
    """The size of a difference over topics, of the system looked at minus the other one.

    ``difference``: the mean. ``ci95``: its 95% interval by Student's t, which leaves out 0 just
    when the paired t test has p < 0.05; None with one topic. ``d_z``: the mean in standard
    deviations of the differences (Cohen's d for pairs, n - 1 in the deviation); None with one
    topic, and where all differences are the same but not zero. ``wins``, ``ties``, ``losses``:
    topics in which the system is better, equal (to 12 decimals) or worse.
    """

    difference: float
    ci95: tuple[float, float] | None
    d_z: float | None
    wins: int
    ties: int
    losses: int

    @property
    def superiority(self) -> float:
        """The chance that the system is better on a topic, ties counted as half a win."""
        return (self.wins + self.ties / 2) / (self.wins + self.ties + self.losses)


def effect(row: NDArray[np.float64]) -> Effect:
    """Return the effect of differences per topic, as ``stats.tests.differences`` gives them."""
    from scipy.special import stdtrit

    topics, mean = len(row), float(row.mean())
    ci95 = d_z = None
    if topics > 1:
        deviation = 0.0 if np.ptp(row) == 0 else float(row.std(ddof=1))
        margin = float(stdtrit(topics - 1, 0.975)) * deviation / topics**0.5
        ci95 = (mean - margin, mean + margin)
        if deviation:
            d_z = mean / deviation
        elif mean == 0:
            d_z = 0.0
    wins, losses = int((row > 0).sum()), int((row < 0).sum())
    return Effect(mean, ci95, d_z, wins, topics - wins - losses, losses)
