"""Published ways of telling which heads find relevant documents.

Each gives every head a number, higher is better, from ``HeadFeatures``:

* ``qrhead-mass``: attention that the query's tokens pay to relevant documents
  (QRHead, arXiv 2506.09944, its definition)
* ``qrhead``: the same after calibration and token filter (its code for LongMemEval)
* ``qrhead-ndcg``: nDCG@10 of the ranking that the head alone makes (its code for BEIR)
* ``core``: exp(m⁺/t) / (exp(m⁺/t) + Σ exp(m⁻/t)) over uncalibrated masses, mean over relevant
  documents and lists (CoRe, arXiv 2510.02219)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ranklens.data.errors import InvalidInputError
from ranklens.rerank.heads.listwise import ndcg

if TYPE_CHECKING:
    from ranklens.rerank.heads.features import HeadFeatures, Matrix

METHODS = ("qrhead", "qrhead-mass", "qrhead-ndcg", "core")
HeadScores = dict[tuple[int, int], float]


def detect_heads(
    lists: Sequence[HeadFeatures], method: str, *, level: int = 1, temperature: float = 0.1
) -> HeadScores:
    """Return every head's score, best first.

    ``level`` is the least grade that counts as relevant, ``temperature`` is CoRe's t. Lists
    without both kinds of document are left out; InvalidInputError when none is left, for an
    unknown method and a temperature that is not positive.
    """
    if method not in METHODS:
        raise InvalidInputError(f"unknown method {method!r}; choose {', '.join(METHODS)}")
    if not temperature > 0:
        raise InvalidInputError(f"the temperature must be positive: {temperature}")
    usable = [x for x in lists if 0 < (x.grades >= level).sum() < len(x.grades)]
    if not usable:
        raise InvalidInputError(
            f"no list of the {len(lists)} has both a document of grade {level} or above and "
            "one below"
        )
    of_list: dict[str, Callable[[HeadFeatures], Matrix]] = {
        "qrhead-mass": lambda x: x.mass[:, x.grades >= level].sum(1),
        "qrhead": lambda x: x.calibrated[:, x.grades >= level].sum(1),
        "qrhead-ndcg": lambda x: ndcg(x.calibrated, x.grades),
        "core": lambda x: _contrast(x, level, temperature),
    }
    scores = np.mean([of_list[method](x) for x in usable], axis=0)
    heads = [(int(layer), int(head)) for layer, head in usable[0].heads]
    return dict(sorted(zip(heads, map(float, scores), strict=True), key=lambda s: (-s[1], s[0])))


def overlap(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many heads two sets share."""
    return len(set(one) & set(other))


def _contrast(x: HeadFeatures, level: int, temperature: float) -> Matrix:
    relevant = x.grades >= level
    logits = x.mass / temperature
    # A difference of logarithms: e^(m/t) itself overflows at CoRe's t of 0.001.
    highest = logits[:, ~relevant].max(1, keepdims=True)
    others = highest[:, 0] + np.log(np.exp(logits[:, ~relevant] - highest).sum(1))
    share = 1 / (1 + np.exp(np.clip(others[:, None] - logits[:, relevant], -700, 700)))
    mean: Matrix = share.mean(1)
    return mean
