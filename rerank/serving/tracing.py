"""OpenInference spans of kind RERANKER, where OpenTelemetry is installed; else nothing.

Attribute names are those of openinference-semantic-conventions. Where spans go, and whether
they go anywhere, is decided by the process: without a tracer provider they cost next to nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from ranklens.rerank.serving.jobs import Answer, RankJob


def _silent(answer: Answer) -> None:
    pass


@contextlib.contextmanager
def traced(job: RankJob, model: str, contents: bool) -> Iterator[Callable[[Answer], None]]:
    """Span a request; the function that is given takes its answer.

    Documents are numbered by their position. Their texts are in the span with ``contents`` only;
    the query always is, as whoever traces expects.
    """
    if importlib.util.find_spec("opentelemetry") is None:
        yield _silent
        return
    from opentelemetry import trace

    main: dict[str, Any] = {
        "openinference.span.kind": "RERANKER",
        "reranker.model_name": model,
        "reranker.query": job.query,
        "reranker.top_k": job.top_n or len(job.documents),
    }
    # A span holds so many attributes (128, if nobody says otherwise) and drops the oldest: what
    # matters most is set last, the first documents after the others.
    attributes: dict[str, Any] = {}
    for i in reversed(range(len(job.documents))):
        attributes[f"reranker.input_documents.{i}.document.id"] = str(i)
        if contents:
            attributes[f"reranker.input_documents.{i}.document.content"] = job.documents[i]
    with trace.get_tracer("ranklens").start_as_current_span(
        "rerank", attributes=attributes | main
    ) as span:

        def answered(answer: Answer) -> None:
            for place, result in reversed(list(enumerate(answer.results))):
                prefix = f"reranker.output_documents.{place}.document"
                span.set_attribute(f"{prefix}.id", str(result.index))
                span.set_attribute(f"{prefix}.score", result.score)
                if contents:
                    span.set_attribute(f"{prefix}.content", job.documents[result.index])
            span.set_attributes(main)

        yield answered
