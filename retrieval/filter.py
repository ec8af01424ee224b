"""Leaving out what an encoder finds too far from the query, by a probability of relevance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ranklens.data.encoder import Encoder
from ranklens.data.errors import InvalidInputError, NumericalError, UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Query
from ranklens.data.score_map import Pair, ScoreMap, fit_score_map


@dataclass(frozen=True, slots=True)
class Kept:
    """A document that passed, its inner product with the query and its probability."""

    document: Document
    score: float
    probability: float


class EmbeddingFilter:
    """Keeps the documents whose probability of being relevant reaches ``threshold``.

    The probability is a ``ScoreMap`` of the inner product of query and document (their cosine,
    where the encoder normalises). Cosines themselves have no threshold that holds for two models:
    ``fit`` finds the map on judged documents, as those who will be filtered are.

    Raises UsageError for a threshold outside [0, 1] and for a map that was not made of raw scores.
    """

    def __init__(self, encoder: Encoder, score_map: ScoreMap, threshold: float) -> None:
        if not 0 <= threshold <= 1:
            raise UsageError(f"the threshold must lie between 0 and 1, got {threshold}")
        if score_map.of != "raw":
            raise UsageError(f"the score map takes {score_map.of!r}; an embedding filter has raw")
        self.encoder, self.score_map, self.threshold = encoder, score_map, threshold

    @classmethod
    def fit(
        cls,
        encoder: Encoder,
        lists: Iterable[tuple[Query, Sequence[Document]]],
        qrels: Qrels,
        threshold: float,
        *,
        relevance_level: int = 1,
    ) -> EmbeddingFilter:
        """Fit the map to queries and their candidates; Platt's, see ``fit_score_map``.

        A candidate without a judgement, or graded below ``relevance_level``, is not relevant.
        Raises InvalidInputError when no candidate is relevant, or all are.
        """
        pairs: list[Pair] = []
        for query, documents in lists:
            grades = qrels.get(query.id, {})
            scores = _scores(encoder, query, documents)
            pairs += [
                (score, grades.get(document.id, 0) >= relevance_level)
                for score, document in zip(scores, documents, strict=True)
            ]
        if not pairs:
            raise InvalidInputError("there is nothing to fit an embedding filter on: no candidates")
        return cls(encoder, fit_score_map(pairs), threshold)

    def keep(self, query: Query, documents: Sequence[Document]) -> list[Kept]:
        """Return the documents that pass, in the order given; possibly none."""
        scores = _scores(self.encoder, query, documents)
        rated = [
            Kept(document, score, self.score_map(score))
            for document, score in zip(documents, scores, strict=True)
        ]
        return [kept for kept in rated if kept.probability >= self.threshold]


def _scores(encoder: Encoder, query: Query, documents: Sequence[Document]) -> list[float]:
    if not documents:
        return []
    [vector] = encoder.encode_queries([query.text])
    passages = encoder.encode_passages([document.full_text for document in documents])
    scores = [float(score) for score in passages @ vector]
    for document, score in zip(documents, scores, strict=True):
        if not math.isfinite(score):
            raise NumericalError(
                f"the encoder gives query {query.id!r} and document {document.id!r} the score "
                f"{score}; another dtype may help (float32)"
            )
    return scores
