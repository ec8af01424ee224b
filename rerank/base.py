"""What a reranker is, and what it returns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ranklens.data.device import Placement
from ranklens.data.errors import InvalidInputError, NumericalError, RanklensError
from ranklens.data.files import shown
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


@dataclass(frozen=True, slots=True)
class Shortened:
    """A text as far as it was to be read: ``text`` is a prefix of the whole.

    ``tokens`` are those of the prefix as the model counts them, ``tokens_cut`` those of the rest.
    """

    text: str
    tokens: int
    tokens_cut: int


class Reranker(ABC):
    """Orders documents for a query.

    ``name`` is what results call it: ``attention:smollm2-135m``. ``placement`` says where its
    model runs, ``revision`` which weights it has; None without one, or unknown. One reranker may
    be called from several threads: forward passes take turns, and results are those of calls one
    after another.
    """

    name: str
    placement: Placement | None = None
    revision: str | None = None

    @abstractmethod
    def rank(self, query: str | Query, documents: Sequence[str | Document]) -> Ranking:
        """Return every document once, best first.

        ``documents`` come best first from the stage before; plain strings get their position
        as id. The inputs are not changed. Raises InvalidInputError as ``checked_request``, and
        where query and documents cannot be made to fit the model.
        """

    def rank_many(
        self, requests: Iterable[tuple[str | Query, Sequence[str | Document]]]
    ) -> Iterator[Ranking]:
        """Yield one ranking per (query, documents), in order; an error names the request."""
        for number, request in enumerate(requests):
            try:
                query, documents = pair(request)
                ranking = self.rank(query, documents)
            except Exception as error:
                named = named_error(error, number, request)
                raise named from named.__cause__
            yield ranking

    @abstractmethod
    def shortened(self, text: str, most: int | None = None) -> Shortened:
        """Return the text's first ``most`` tokens as the model counts them; all where None.

        Control tokens in the text count as the characters they are written with. Raises
        InvalidInputError for ``most`` below 0.
        """

    @staticmethod
    def from_spec(
        spec: str, *, device: str | None = None, dtype: str | None = None, **settings: Any
    ) -> Reranker:
        """Load a reranker by ``KIND:MODEL``; see ``ranklens.rerank.from_spec``."""
        from ranklens.rerank.from_spec import from_spec

        loaded: Reranker = from_spec(spec, device=device, dtype=dtype, **settings)
        return loaded


def pair(request: object) -> tuple[Any, Any]:
    """Return a request's query and documents; InvalidInputError for what is no pair."""
    if not isinstance(request, tuple | list) or len(request) != 2:
        raise InvalidInputError(f"expected (query, documents), got {shown(request)}")
    return request[0], request[1]


def named_error(error: Exception, position: int, request: object) -> Exception:
    """Return an error with the place of its request among others in it."""
    query = request[0] if isinstance(request, tuple | list) and request else None
    name = f" ({query.id!r})" if isinstance(query, Query) else ""
    where = f"request {position}{name}, counted from 0"
    if not isinstance(error, RanklensError):
        error.add_note(f"in {where}")
        return error
    named = type(error)(f"{where}: {error}")
    named.__cause__ = error
    return named


def check_scores(reranker: Reranker, records: Sequence[Document], scores: Iterable[float]) -> None:
    """Raise NumericalError that names the first document with a score of NaN or Inf."""
    for record, score in zip(records, scores, strict=True):
        if not math.isfinite(score):
            where = reranker.placement
            narrow = "" if where is None else f", or {where.dtype} is too narrow for them"
            raise NumericalError(
                f"{reranker.name} gave {score} for document {record.id!r}; its weights are "
                f"damaged{narrow}"
            )


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
