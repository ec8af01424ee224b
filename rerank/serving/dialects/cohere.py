"""Cohere's v1 and v2: ``POST /v1/rerank`` and ``/v2/rerank``, as its SDK 7.3 sends and reads.

    request    model, query, documents, top_n, max_tokens_per_doc, relevant_spans (v2),
               rank_fields, return_documents (v1, see ``jina``)
    answer     id, results[].index, .relevance_score, .relevant_spans, .document (v1), meta

``priority`` and ``max_chunks_per_doc`` have no effect and are named as ignored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from ranklens.rerank.serving.dialects.fields import Count, Fields, Positive
from ranklens.rerank.serving.jobs import Answer, FoundSpan, SpanChoice

_DOCUMENTS_PER_UNIT = 100
_MOST_FIELDS = 100


class RelevantSpans(Fields):
    """Cohere v2's ``relevant_spans``: the stretches of each document that speak for it."""

    mode: Literal["enabled", "disabled"]
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="Spans at or above this score; 0.1 if not given."
    )
    max_spans: Positive | None = Field(None, description="The most spans of a document.")

    def choice(self) -> SpanChoice | None:
        """Return what the service is asked for."""
        if self.mode == "disabled":
            return None
        threshold = SpanChoice().threshold if self.threshold is None else self.threshold
        return SpanChoice(threshold, self.max_spans)


class CohereFields(Fields):
    """What Cohere's requests have besides model, query and documents."""

    top_n: Count | None = Field(None, description="The best so many; 0 (vLLM's) and null: all.")
    max_tokens_per_doc: Count | None = Field(
        None, description="Longer documents are shortened; 0 (vLLM's): no limit of the request's."
    )
    relevant_spans: RelevantSpans | None = None
    rank_fields: list[str] | None = Field(
        None, description="The fields that are ranked of documents that are objects."
    )

    @field_validator("rank_fields", mode="before")
    @classmethod
    def _few_fields(cls, value: object) -> object:
        # Before each of a million is looked at.
        if isinstance(value, list) and len(value) > _MOST_FIELDS:
            raise PydanticCustomError("fields", "must name at most {most}", {"most": _MOST_FIELDS})
        return value


class Span(TypedDict):
    """A span: half-open, in Unicode code points of the document; the score in [0, 1]."""

    start: int
    end: int
    score: float


class Version(TypedDict):
    """The version of Cohere's interface that this is."""

    version: str


class BilledUnits(TypedDict):
    """Search units: a query with up to 100 documents each."""

    search_units: int


class Tokens(TypedDict):
    """Tokens that the model read and wrote."""

    input_tokens: int
    output_tokens: int


class Meta(TypedDict):
    """Cohere's ``meta``; ``tokens_cut`` and ``documents_cut`` are ours."""

    api_version: Version
    billed_units: BilledUnits
    tokens: Tokens
    tokens_cut: int
    documents_cut: int
    warnings: NotRequired[list[str]]


def spans(found: Sequence[FoundSpan]) -> list[Span]:
    """Return spans, most relevant first."""
    ordered = sorted(found, key=lambda span: (-span.score, span.start))
    return [{"start": span.start, "end": span.end, "score": span.score} for span in ordered]


def meta(version: str, answer: Answer, documents: int, unread: Sequence[str]) -> Meta:
    """Return ``meta`` of an answer over so many documents; warnings only where there are some."""
    value: Meta = {
        "api_version": {"version": version},
        "billed_units": {"search_units": math.ceil(documents / _DOCUMENTS_PER_UNIT)},
        "tokens": {"input_tokens": answer.tokens, "output_tokens": 0},
        "tokens_cut": answer.tokens_cut,
        "documents_cut": answer.documents_cut,
    }
    warnings = []
    if answer.documents_cut:
        warnings.append(
            f"{answer.documents_cut} of {documents} documents were shortened, "
            f"by {answer.tokens_cut} tokens together"
        )
    if unread:
        warnings.append(f"fields without effect: {', '.join(unread)}")
    if warnings:
        value["warnings"] = warnings
    return value
