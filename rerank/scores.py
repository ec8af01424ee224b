"""From token signals to document scores: calibration, then pooling. All in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ranklens.rerank.profile import CalibrationChoice, PoolingChoice

if TYPE_CHECKING:
    import torch


def calibrate(totals: torch.Tensor, choice: CalibrationChoice) -> torch.Tensor:
    """Return one calibrated value per token, [shared], from totals [tails, shared].

    The first tail is the query. ``null-query`` subtracts the second, the content-free query
    (ICR, arXiv 2410.02642: ``c_j = s_q[j] − s_0[j]``); ``none`` takes the query's as they are.
    """
    return totals[0] - totals[1] if choice.method == "null-query" else totals[0]


def pool(
    tokens: torch.Tensor, spans: Sequence[tuple[int, int]], choice: PoolingChoice
) -> list[float]:
    """Return one score per document, the sum of its kept tokens.

    ICR keeps a token when it is strictly above mean − 2 · std of its document (unbiased std),
    so only abnormally low ones go. As in the reference a document whose tokens are all alike,
    or that has one token, keeps none and scores 0.
    """
    scores = []
    for start, end in spans:
        document = tokens[start:end]
        if choice.drop_below_stds is not None:
            # std of one token is undefined; its comparison would be False through NaN.
            if end - start < 2:
                document = document[:0]
            else:
                lowest = document.mean() - choice.drop_below_stds * document.std()
                document = document[document > lowest]
        scores.append(float(document.sum()))
    return scores
