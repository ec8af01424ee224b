"""What a reranker is, and what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ranklens.data.errors import InvalidInputError
from ranklens.data.records import Document, Query


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """A document's place in a ranking.

    ``index`` is its position in the caller's list, ``score`` is comparable within one ranking
    only (it may be negative), ``tokens_cut`` says how many of its tokens the model did not see.
    """

    index: int
    id: str
    score: float
    tokens_cut: int = 0


class Ranking(tuple[RankedDocument, ...]):
    """The documents of one call, best first, each exactly once."""

    __slots__ = ()

    @classmethod
    def from_scores(
        cls, documents: Sequence[Document], scores: Sequence[float], tokens_cut: Sequence[int]
    ) -> Ranking:
        """Rank documents by score, descending; equal scores keep the order of the input."""
        rows = zip(documents, scores, tokens_cut, strict=True)
        ranked = [
            RankedDocument(index, document.id, score, cut)
            for index, (document, score, cut) in enumerate(rows)
        ]
        return cls(sorted(ranked, key=lambda r: (-r.score, r.index)))

    @property
    def ids(self) -> list[str]:
        """The document ids, best first."""
        return [ranked.id for ranked in self]


class Reranker(Protocol):
    """Orders documents for a query."""

    def rank(self, query: str | Query, documents: Sequence[str | Document]) -> Ranking:
        """Return every document once, best first.

        ``documents`` come best first from the stage before; plain strings get their position
        as id. The inputs are not changed.
        """
        ...

    def rank_many(
        self, requests: Iterable[tuple[str | Query, Sequence[str | Document]]]
    ) -> Iterator[Ranking]:
        """Yield one ranking per (query, documents), in order."""
        ...


def checked_request(
    query: str | Query, documents: Sequence[str | Document]
) -> tuple[str, list[Document]]:
    """Return the query's text and the documents as records.

    Raises InvalidInputError for an empty query, no documents, an id that occurs twice, and
    documents that are neither text nor Document.
    """
    text = query.text if isinstance(query, Query) else query
    if not isinstance(text, str):
        raise InvalidInputError(f"the query must be a str or Query, got {type(text).__name__}")
    if not text.strip():
        raise InvalidInputError("the query is empty: there is nothing to rank by")
    if isinstance(documents, str):
        raise InvalidInputError("documents must be a list of texts, got one str")
    records = [_record(index, document) for index, document in enumerate(documents)]
    if not records:
        raise InvalidInputError("no documents to rank")
    first: dict[str, int] = {}
    for index, record in enumerate(records):
        known = first.setdefault(record.id, index)
        if known != index:
            raise InvalidInputError(
                f"document id {record.id!r} occurs twice, at positions {known} and {index}"
            )
    return text, records


def _record(index: int, document: str | Document) -> Document:
    if isinstance(document, Document):
        return document
    if isinstance(document, str):
        return Document(str(index), document)
    raise InvalidInputError(
        f"document {index} must be a str or Document, got {type(document).__name__}"
    )
