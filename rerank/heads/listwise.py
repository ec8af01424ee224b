"""Measures of a head over judged lists, all heads at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ranklens.rerank.heads.features import HeadFeatures, Matrix


def ndcg(
    scores: Matrix,
    grades: NDArray[np.int64],
    k: int = 10,
    *,
    judged: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Return nDCG@k [heads] of scores [heads, documents] within one list.

    Linear gains and log2 discount as trec_eval; the ideal is the list's own, or that of all the
    ``judged`` grades of the query. Equal scores keep the order of the list.
    """
    every = grades if judged is None else judged
    discount = 1 / np.log2(np.arange(2, k + 2))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.sort(every)[::-1][:k]
    gains: NDArray[np.float64] = grades[order] @ discount[: order.shape[1]]
    return gains / (best @ discount[: len(best)])


def first_stage(lists: Sequence[HeadFeatures], k: int = 10) -> NDArray[np.float64]:
    """Return nDCG@k [lists] of the order in which the candidates came."""
    return np.array(
        [ndcg(-np.arange(len(x.grades), dtype=float)[None], x.grades, k)[0] for x in lists]
    )
