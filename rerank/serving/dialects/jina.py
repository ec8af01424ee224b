"""Jina's ``POST /v1/rerank``.

    request    model, query, documents (texts or {"text"}), top_n, return_documents
    answer     model, usage.total_tokens, results[].index, .relevance_score, .document.text
    errors     {"detail"}

Its clients send ``"top_n": null`` for all documents. Documents that are images are refused, and
``truncation`` has no effect: what is cut is counted.
"""

from __future__ import annotations

from pydantic import Field

from ranklens.rerank.serving.dialects.fields import Fields


class JinaFields(Fields):
    """What Jina's requests have that not all dialects have; Cohere v1 has it too."""

    return_documents: bool | None = Field(
        None, description="Whether results hold their documents; they do if not given."
    )
