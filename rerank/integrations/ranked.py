"""What every adapter does: load a reranker once, and rank texts that are told apart by place.

Frameworks have lists in which an id occurs twice, or no ids at all. Adapters therefore give
texts alone, and find their documents again by ``RankedDocument.index``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ranklens.data.errors import InvalidInputError, NumericalError, RanklensError, UsageError
from ranklens.rerank.base import RankedDocument, Ranking, Reranker
from ranklens.rerank.from_spec import DEFAULT as DEFAULT


def loaded(reranker: str | Reranker, **settings: Any) -> Reranker:
    """Return a reranker that can be used: a spec's is loaded by this call, an object is returned.

    ``settings`` are those of ``Reranker.from_spec`` (``device``, ``dtype``, ``profile``...); None
    stands for one that is not given. Raises UsageError for settings beside an object, which has
    its own, and for what is neither a spec nor a reranker; and as ``from_spec`` does.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if isinstance(reranker, str):
        return Reranker.from_spec(reranker, **given)
    if not isinstance(reranker, Reranker):
        raise UsageError(
            f"reranker must be a spec such as {DEFAULT!r} or a ranklens.Reranker, "
            f"got {type(reranker).__name__}"
        )
    if given:
        raise UsageError(
            f"{', '.join(given)}: settings are for a reranker that is given as a spec; "
            f"this {type(reranker).__name__} has its own"
        )
    return reranker


def described(reranker: str | Reranker) -> str:
    """Return a reranker as it is written down: its spec, or for an object its class and name.

    The latter is in angle brackets, which no spec has: reading it back fails, where a spec made
    up from the name could stand for a reranker with other settings.
    """
    if isinstance(reranker, str):
        return reranker
    return f"<{type(reranker).__name__} {reranker.name}>"


def check_top(name: str, value: int | None) -> None:
    """Raise InvalidInputError for a number of documents to return that is below 1."""
    if value is not None and value < 1:
        raise InvalidInputError(f"{name} must be at least 1, or None for all: {value}")


def ranked(
    reranker: Reranker, query: str, texts: Sequence[str], top_n: int | None = None
) -> list[RankedDocument]:
    """Return the best ``top_n`` of the texts (None: all), best first, told apart by ``index``.

    All texts are ranked, then the list is cut. No texts are no error. Scores are Python floats.
    Raises InvalidInputError for ``top_n`` below 1, NumericalError for a score that is NaN or
    infinite, RanklensError for a ranking that is not one of the texts, each once; and as ``rank``.
    """
    check_top("top_n", top_n)
    return list(whole_ranking(reranker, query, texts)[:top_n])


def whole_ranking(reranker: Reranker, query: str, texts: Sequence[str]) -> Ranking:
    """Return the ranking of all texts, checked as ``ranked`` says."""
    if not texts:
        return Ranking()
    ranking = reranker.rank(query, list(texts))
    if sorted(document.index for document in ranking) != list(range(len(texts))):
        raise RanklensError(
            f"{type(reranker).__name__} ranked {len(ranking)} documents of {len(texts)} given, "
            "or one of them twice"
        )
    for document in ranking:
        if not math.isfinite(document.score):
            raise NumericalError(
                f"{type(reranker).__name__} gave document {document.index} the score "
                f"{document.score}"
            )
    return Ranking(
        dataclasses.replace(document, score=float(document.score)) for document in ranking
    )
