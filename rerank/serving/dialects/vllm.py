"""vLLM's additions to ``/rerank``, ``/v1/rerank``, ``/v2/rerank``, and its ``/score``.

    rerank     max_tokens_per_query, truncate_prompt_tokens, truncation_side, use_activation;
               0 stands for no limit, and every result holds its document
    /score     text_1 (or queries, data_1) and text_2 (or documents, items, data_2), each a text
               or a list: 1 with 1, 1 with n, or n with n

A prompt here holds all documents, so ``truncate_prompt_tokens`` limits each document.
``use_activation: false`` asks for the reranker's own scores. ``instruction``,
``chat_template_kwargs``, ``user`` and others have no effect and are named as ignored. A single
text as ``documents`` of a ranking, which vLLM allows, is refused: it is a list forgotten.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field
from typing_extensions import TypedDict

from ranklens.rerank.serving.dialects.documents import OneOrMore
from ranklens.rerank.serving.dialects.errors import RequestError, whole
from ranklens.rerank.serving.dialects.fields import Count, Fields, ModelField, Usage, usage
from ranklens.rerank.serving.jobs import Answer, RankJob


class VllmFields(Fields):
    """What vLLM's requests have besides the fields that it shares with Cohere and Jina."""

    max_tokens_per_query: Count | None = Field(
        None, description="A longer query is shortened; 0 and null: it is refused."
    )
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = Field(
        None, description="The most tokens of a document; -1: what the model can read."
    )
    truncation_side: Literal["left", "right"] | None = Field(
        None, description="The side that is cut off; the right one if not given."
    )
    use_activation: bool | None = Field(None, description="false: the reranker's own scores.")

    def limits(self, max_tokens_per_doc: int | None = None) -> dict[str, Any]:
        """Return the arguments of a job that say what is cut, and where, and its scores."""
        if self.truncate_prompt_tokens == 0:
            raise RequestError.field("truncate_prompt_tokens", "0 would leave nothing")
        asked = [most for most in (max_tokens_per_doc, self.truncate_prompt_tokens) if most]
        limits = [most for most in asked if most > 0]
        return {
            "max_tokens_per_doc": min(limits) if limits else None,
            "max_tokens_per_query": self.max_tokens_per_query or None,
            "cut_from": "start" if self.truncation_side == "left" else "end",
            "raw_scores": self.use_activation is False,
        }


class ScoreRequest(ModelField, VllmFields):
    """``POST /score``: pairs of texts."""

    text_1: OneOrMore = Field(
        validation_alias=AliasChoices("text_1", "queries", "data_1"),
        description="A query, or one for each of text_2. Also: queries, data_1.",
    )
    text_2: OneOrMore = Field(
        validation_alias=AliasChoices("text_2", "documents", "items", "data_2"),
        description="A document or several. Also: documents, items, data_2.",
    )
    max_tokens_per_doc: Count | None = None

    def pairs(self) -> tuple[list[str], list[str]]:
        """Return queries and documents, as many of both; a 422 RequestError where they differ."""
        queries = [self.text_1] if isinstance(self.text_1, str) else self.text_1
        documents = [self.text_2] if isinstance(self.text_2, str) else self.text_2
        if len(queries) == 1:
            queries = queries * len(documents)
        if len(queries) != len(documents):
            raise RequestError.field(
                "text_1",
                f"{len(queries)} texts with {len(documents)} of text_2; "
                "they go 1 with 1, 1 with n or n with n",
            )
        return queries, documents

    def jobs(self) -> list[tuple[RankJob, list[int]]]:
        """Return a job per query, with the places of its documents among the pairs.

        The documents of equal queries are ranked together: a score compares with those of its
        own query.
        """
        queries, documents = self.pairs()
        places: dict[str, list[int]] = {}
        for place, query in enumerate(queries):
            if not query.strip():
                raise RequestError.field("text_1", "an empty query: there is nothing to rank by")
            places.setdefault(query, []).append(place)
        limits = self.limits(self.max_tokens_per_doc)
        return [
            (RankJob(whole(query), tuple(whole(documents[at]) for at in of), **limits), of)
            for query, of in places.items()
        ]


class Scored(TypedDict):
    """The score of a pair; ``index`` is its place in the request."""

    index: int
    object: Literal["score"]
    score: float


class ScoreAnswer(TypedDict):
    """What ``/score`` answers: the pairs in their own order."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Scored]
    usage: Usage


def score_answer(model: str, answered: Sequence[tuple[Answer, Sequence[int]]]) -> ScoreAnswer:
    """Return the scores of all pairs, from each query's answer and the places of its documents."""
    scores = {
        places[result.index]: result.score
        for answer, places in answered
        for result in answer.results
    }
    return {
        "id": f"embd-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [
            {"index": place, "object": "score", "score": scores[place]} for place in sorted(scores)
        ],
        "usage": usage(sum(answer.tokens for answer, _ in answered)),
    }
