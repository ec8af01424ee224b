"""UDCG without training, as its authors' code computes it.

    s = (1/n) · Σ (1 − p_abs) · w        w = 1 for a relevant passage, −γ for another; γ = 1/3
    UDCG = 1 / (1 + exp(−s))

n is the number of all passages, also of those whose p_abs or relevance is missing: these add
nothing to the sum and pull the value towards 0.5. There is one sum over n: the authors' README
speaks of a mean over the relevant ones less one over the others, which is another number.

* It judges the set of passages, not their order. Only the cut-off changes what a reordered list
  is worth: report it at several depths.
* s lies in [−γ, 1], so UDCG for γ = 1/3 in [0.4174, 0.7311]. 0.5 is a reader that abstains from
  everything.
* An empty list has s = 0 and UDCG 0.5: it holds nothing to use and nothing that distracts. The
  authors' code returns 0, less than any list can reach; ``empty=REFERENCE_EMPTY`` does so too.
* The curve is monotone, so correlations by rank are the same with s; means over queries are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.data.errors import UsageError
from ranklens.eval.udcg.utility import PassageUtility

GAMMA = 1 / 3
NEUTRAL = 0.5
REFERENCE_EMPTY = 0.0


@dataclass(frozen=True, slots=True)
class Udcg:
    """The value of one list: UDCG, the sum s before the sigmoid, what it was made of.

    ``passages`` is n, ``missing`` how many of them had no p_abs or no relevance.
    """

    value: float
    raw: float
    passages: int
    missing: int


def practical_udcg(
    passages: Sequence[PassageUtility],
    gamma: float = GAMMA,
    *,
    depth: int | None = None,
    empty: float = NEUTRAL,
) -> Udcg:
    """Return the UDCG of a list of passages, or of its first ``depth``.

    Raises UsageError for a depth below 1 and a gamma that is negative or not finite.
    """
    if depth is not None and depth < 1:
        raise UsageError(f"depth must be at least 1, got {depth}")
    check_gamma(gamma)
    used = passages[:depth]
    missing = sum(passage.missing for passage in used)
    if not used:
        return Udcg(empty, 0.0, 0, 0)
    # Rounded once, so that the order of the passages plays no part down to the last bit.
    raw = math.fsum(passage.gain + gamma * passage.loss for passage in used) / len(used)
    return Udcg(1 / (1 + math.exp(-raw)), raw, len(used), missing)


def attainable(gamma: float = GAMMA) -> tuple[float, float]:
    """Return the lowest and the highest UDCG that a list with passages can have."""
    check_gamma(gamma)
    return 1 / (1 + math.exp(gamma)), 1 / (1 + math.exp(-1))


def check_gamma(gamma: float) -> None:
    """Raise UsageError for a weight of distraction that is negative or not finite."""
    # Beyond that exp() overflows long after the measure has lost its meaning.
    if not 0 <= gamma <= 100:
        raise UsageError(f"gamma must lie in [0, 100], got {gamma}")
