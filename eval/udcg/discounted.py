"""A discounted sum of utilities. It is NOT the UDCG of arXiv 2510.21440.

Public code under the name UDCG often divides utilities by log2(rank + 1). The published metric has
no such discount: its practical form ignores the order, its learned form fits a weight for each
position. This one is offered under a name of its own, for comparison with both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ranklens.data.errors import UsageError
from ranklens.eval.udcg.practical import GAMMA, check_gamma
from ranklens.eval.udcg.utility import PassageUtility


def log2_utility(
    passages: Sequence[PassageUtility], gamma: float = GAMMA, *, depth: int | None = None
) -> float:
    """Return Σ (u⁺ + γ·u⁻) / log2(rank + 1) over the first ``depth`` passages, ranks from 1.

    An unbounded sum: 0 for an empty list, not normalised by an ideal one. Raises UsageError as
    ``practical_udcg`` does.
    """
    if depth is not None and depth < 1:
        raise UsageError(f"depth must be at least 1, got {depth}")
    check_gamma(gamma)
    return math.fsum(
        (passage.gain + gamma * passage.loss) / math.log2(rank + 1)
        for rank, passage in enumerate(passages[:depth], start=1)
    )
