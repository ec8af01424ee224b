"""Spans of documents that speak for them, as the attention that they get says."""

from __future__ import annotations

from collections.abc import Sequence

from ranklens.data.errors import InvalidInputError
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.base import RankedDocument, Ranking, Reranker
from ranklens.rerank.explain import DocumentExplanation, Explainer
from ranklens.rerank.serving.jobs import FoundSpan, SpanChoice
from ranklens.rerank.serving.limits import Kept


def ranked_with_spans(
    reranker: Reranker, query: str, documents: Sequence[Kept], choice: SpanChoice
) -> tuple[Ranking, dict[int, tuple[FoundSpan, ...]]]:
    """Return the ranking, and by position the spans of each document, strongest first.

    Both come from one forward pass. Spans are in code points of the whole text that ``Kept`` is
    a part of. Raises InvalidInputError for a reranker that does not read attention.
    """
    if not isinstance(reranker, AttentionReranker):
        raise InvalidInputError(
            f"{reranker.name} cannot say which spans are relevant: it reads no attention; use an "
            "attention:MODEL reranker, or ask for no spans"
        )
    explained = Explainer(reranker).explain(query, [kept.text for kept in documents])
    ranking = Ranking(
        RankedDocument(one.index, one.document.id, one.score, one.tokens_cut) for one in explained
    )
    strongest = max((one.spans[0].contribution for one in explained if one.spans), default=0.0)
    return ranking, {
        one.index: _spans(one, documents[one.index].start, strongest, choice) for one in explained
    }


def _spans(
    explained: DocumentExplanation, start: int, strongest: float, choice: SpanChoice
) -> tuple[FoundSpan, ...]:
    found = [
        FoundSpan(
            start + span.place.start,
            start + span.place.end,
            min(1.0, span.contribution / strongest),
        )
        for span in explained.spans
        if strongest > 0
    ]
    return tuple(one for one in found if one.score >= choice.threshold)[: choice.max_spans]
