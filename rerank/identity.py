"""No reranking: the order of the stage before, to compare with."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ranklens.data.records import Document, Query
from ranklens.rerank.base import Ranking, Reranker, Shortened, checked_request
from ranklens.rerank.shortening import shorten

_WORD = re.compile(r"\S+")


class IdentityReranker(Reranker):
    """Keeps the order that it is given; document i of n has the score n − i, counted from 0.

    There is no model, so ``shortened`` counts words: runs without white space.
    """

    name = "identity"

    def rank(self, query: str | Query, documents: Sequence[str | Document]) -> Ranking:
        """Return the documents as they came; see ``Reranker.rank``."""
        _, records = checked_request(query, documents)
        scores = [float(len(records) - place) for place in range(len(records))]
        return Ranking.from_scores(records, scores, [0] * len(records))

    def shortened(self, text: str, most: int | None = None) -> Shortened:
        """Return the text's first ``most`` words."""
        return shorten(text, most, _words)


def _words(text: str) -> tuple[list[int], list[tuple[int, int]]]:
    places = [found.span() for found in _WORD.finditer(text)]
    return list(range(len(places))), places
