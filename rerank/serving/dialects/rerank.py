"""``POST /rerank``, ``/v1/rerank`` and ``/v2/rerank``: Cohere, Jina and vLLM in one object.

These paths are shared by dialects whose bodies look alike, so a request may have the fields of
all, and the answer holds what each reads:

    id, meta                          Cohere
    model, usage                      Jina and vLLM
    results[].index                   all
    results[].relevance_score         all
    results[].document.text           vLLM always, Cohere v1 and Jina when asked for
    results[].document.multi_modal    vLLM; null
    results[].relevant_spans          Cohere v2; absent where there are none
    results[].tokens_cut              ours

Documents come back unless ``return_documents`` is false, since vLLM's always do. ``top_n`` 0 is
vLLM's way to ask for all; Cohere, who has no such value, never sends it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ranklens.rerank.serving.dialects.cohere import CohereFields, Meta, Span, meta, spans
from ranklens.rerank.serving.dialects.documents import Items, Returned, returned, texts_of
from ranklens.rerank.serving.dialects.errors import RequestError, whole
from ranklens.rerank.serving.dialects.fields import ModelField, Usage, usage
from ranklens.rerank.serving.dialects.jina import JinaFields
from ranklens.rerank.serving.dialects.vllm import VllmFields
from ranklens.rerank.serving.jobs import Answer, RankJob


class RerankRequest(ModelField, CohereFields, JinaFields, VllmFields):
    """A ranking that is asked for in Cohere's, Jina's or vLLM's way."""

    query: str
    documents: Items = Field(description="Texts, or objects with a field `text`.")

    def job(self) -> RankJob:
        """Return what the service is asked for; a RequestError names the field that is wrong."""
        if not self.query.strip():
            raise RequestError.field("query", "is empty: there is nothing to rank by")
        if self.rank_fields is not None and not self.rank_fields:
            raise RequestError.field("rank_fields", "names no field")
        wanted = None if self.relevant_spans is None else self.relevant_spans.choice()
        if wanted and self.rank_fields:
            raise RequestError.field(
                "relevant_spans", "a span lies in one text, not in rank_fields"
            )
        return RankJob(
            whole(self.query),
            texts_of(self.documents, self.rank_fields),
            top_n=self.top_n or None,
            spans=wanted,
            **self.limits(self.max_tokens_per_doc),
        )


class RerankResult(TypedDict):
    """A document's place, best first; ``index`` is its position in the request."""

    index: int
    relevance_score: float
    tokens_cut: int
    document: NotRequired[Returned]
    relevant_spans: NotRequired[list[Span]]


class RerankAnswer(TypedDict):
    """The answer of the shared paths."""

    id: str
    model: str
    usage: Usage
    results: list[RerankResult]
    meta: Meta


def rerank_answer(
    version: str, request: RerankRequest, job: RankJob, answer: Answer, unread: Sequence[str]
) -> dict[str, Any]:
    """Return a ``RerankAnswer``; documents that were objects keep their other fields too."""
    results = []
    for found in answer.results:
        result: dict[str, Any] = {
            "index": found.index,
            "relevance_score": found.score,
            "tokens_cut": found.tokens_cut,
        }
        if request.return_documents is not False:
            item = request.documents[found.index]
            result["document"] = returned(item, job.documents[found.index])
        if found.spans:
            result["relevant_spans"] = spans(found.spans)
        results.append(result)
    return {
        "id": f"rerank-{uuid.uuid4().hex}",
        "model": answer.model,
        "usage": usage(answer.tokens),
        "results": results,
        "meta": meta(version, answer, len(job.documents), unread),
    }
