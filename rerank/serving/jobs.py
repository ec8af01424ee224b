"""What the server's dialects and its model say to each other: a job, its answer, its errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ranklens.data.errors import InvalidInputError, RanklensError


class OverloadedError(RanklensError):
    """Too much waits already; HTTP 429. ``retry_after``: seconds until it may be less."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(RanklensError):
    """The server is loading, stopping or too slow for this request; HTTP 503.

    Of a request that ran out of time too: it changed nothing and may be sent again, which is
    what clients do with a 503 and ``Retry-After``; 504 is what a proxy says of a server behind it.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooLargeError(InvalidInputError):
    """More documents or bytes than the settings allow; HTTP 413."""


@dataclass(frozen=True, slots=True)
class SpanChoice:
    """Which spans are wanted: at least ``threshold`` high, at most ``max_spans`` a document."""

    threshold: float = 0.1
    max_spans: int | None = None


@dataclass(frozen=True, slots=True)
class RankJob:
    """One request: a query, and documents as texts without titles.

    ``top_n`` None returns all. ``max_tokens_per_doc`` None takes the setting's. A query that is
    longer than the setting is refused unless ``max_tokens_per_query`` says that it be cut.
    ``cut_from`` says which end of a text goes where it is too long. ``raw_scores`` wants the
    reranker's own scores.
    """

    query: str
    documents: tuple[str, ...]
    top_n: int | None = None
    max_tokens_per_doc: int | None = None
    max_tokens_per_query: int | None = None
    raw_scores: bool = False
    spans: SpanChoice | None = None
    cut_from: Literal["end", "start"] = "end"


@dataclass(frozen=True, slots=True)
class FoundSpan:
    """A stretch of a document's text that speaks for it: half-open, in code points.

    ``score`` in [0, 1]: its contribution over that of the strongest span of the whole list, so
    that those of different documents compare.
    """

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Result:
    """A document's place in the answer; ``index`` is its position in the request."""

    index: int
    score: float
    tokens_cut: int
    spans: tuple[FoundSpan, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The results, best first, ``top_n`` of them.

    ``tokens`` are those of the query and all documents that the model read, ``tokens_cut`` those
    that it did not, ``documents_cut`` the number of documents that they were cut from, whether
    or not these are among the results.
    """

    results: tuple[Result, ...]
    model: str
    tokens: int
    tokens_cut: int
    documents_cut: int
