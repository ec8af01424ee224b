"""Request files, as RankLLM writes them: a query and its candidates, with their texts, a line.

    {"query": {"qid": "1", "text": "…"},
     "candidates": [{"docid": "d1", "score": 3.2, "doc": {"title": "…", "text": "…"}}, …]}

The text of a ``doc`` is the first of TEXT_KEYS that it has; ``score`` may be missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import Place, Report, read_json_lines, refuse, sha256, shown
from ranklens.data.records import Document, Query, ScoredDoc
from ranklens.data.rows import text_field
from ranklens.data.runs import Run

TEXT_KEYS = ("text", "segment", "contents", "content", "body", "passage")


@dataclass(frozen=True, slots=True)
class Request:
    """One line: a query, and its candidates best first; ``documents`` are in the same order."""

    query: Query
    candidates: tuple[ScoredDoc, ...]
    documents: tuple[Document, ...]


def read_requests(path: Path, report: Report = refuse) -> Iterator[tuple[Place, Request]]:
    """Yield the requests of a JSONL file, plain or gzip, one in memory at a time.

    Candidates are ordered by score, equal ones as they stand; where one of a list has no score,
    all are taken as they stand. Reports InvalidInputError that names the line for a missing or
    empty field, a score that is not a finite number, and a candidate listed twice.
    """
    for place, record in read_json_lines(path, report):
        try:
            request = _request(place, record)
        except InvalidInputError as error:
            report(error)
            continue
        yield place, request


def _request(place: Place, record: Mapping[str, Any]) -> Request:
    asked = _part(place, record, "query", dict)
    query = Query(
        text_field(place, asked, ("qid", "id", "query_id")),
        text_field(place, asked, ("text",)).strip(),
    )
    if not query.text:
        raise place.error(f"query {query.id!r} has no text")
    documents: dict[str, Document] = {}
    scores: list[float | None] = []
    for candidate in _part(place, record, "candidates", list):
        if not isinstance(candidate, dict):
            raise place.error(f"a candidate must be an object, got {shown(candidate)}")
        doc_id = text_field(place, candidate, ("docid", "id", "doc_id"))
        if doc_id in documents:
            raise place.error(f"query {query.id!r} lists document {doc_id!r} twice")
        doc = _part(place, candidate, "doc", dict)
        documents[doc_id] = Document(
            doc_id,
            text_field(place, doc, TEXT_KEYS),
            text_field(place, doc, ("title",), default=""),
        )
        scores.append(_score(place, doc_id, candidate.get("score")))
    return Request(query, *_ordered(tuple(documents.values()), scores))


def _ordered(
    documents: tuple[Document, ...], scores: list[float | None]
) -> tuple[tuple[ScoredDoc, ...], tuple[Document, ...]]:
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        known = [float(len(scores) - place) for place in range(len(scores))]
    pairs = sorted(zip(documents, known, strict=True), key=lambda pair: -pair[1])
    return (
        tuple(ScoredDoc(document.id, score) for document, score in pairs),
        tuple(document for document, _ in pairs),
    )


def _part(place: Place, record: Mapping[str, Any], key: str, kind: type) -> Any:
    value = record.get(key)
    if not isinstance(value, kind):
        expected = "an object" if kind is dict else "a list"
        found = f"got {shown(value)}" if key in record else f"found {sorted(record)}"
        raise place.error(f"{key!r} must be {expected}, {found}; is it a file of requests?")
    return value


def _score(place: Place, doc_id: str, value: object) -> float | None:
    if value is None:
        return None
    score = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        # An integer of hundreds of digits is none.
        with contextlib.suppress(OverflowError):
            score = float(value)
    if not math.isfinite(score):
        raise place.error(f"document {doc_id!r} has the score {shown(value)}, not a finite number")
    return score


class RequestDocuments:
    """The candidates' documents of a request file, each once.

    Iterating raises InvalidInputError as ``read_requests`` does, and for a document that has
    another title or text than on a line before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Document]:
        return (document for _, document in self.read())

    def read(self, report: Report = refuse) -> Iterator[tuple[Place, Document]]:
        """Yield documents with the place where each is for the first time."""
        known: dict[str, bytes] = {}
        for place, request in read_requests(self.path, report):
            for document in request.documents:
                digest = _digest(document)
                first = known.get(document.id)
                if first is None:
                    known[document.id] = digest
                    yield place, document
                elif first != digest:
                    report(
                        place.error(
                            f"document {document.id!r} has another text here than on a line "
                            "before; ids must stand for one text"
                        )
                    )

    def get_many(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these ids, by one pass over the file."""
        wanted = set(ids)
        return {document.id: document for document in self if document.id in wanted}

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file."""
        return f"sha256:{sha256(self.path)}"


def _digest(document: Document) -> bytes:
    digest = hashlib.blake2b(document.title.encode(), digest_size=16)
    digest.update(b"\0" + document.text.encode())
    return digest.digest()


def request_queries(path: Path) -> list[Query]:
    """Return the queries; InvalidInputError names the line of one that occurs twice."""
    first: dict[str, Place] = {}
    queries = []
    for place, request in read_requests(path):
        if (known := first.setdefault(request.query.id, place)) != place:
            raise place.error(
                f"query id {request.query.id!r} occurs twice (first {known.seen_from(place)})"
            )
        queries.append(request.query)
    if not queries:
        raise InvalidInputError(f"{path}: the file is empty")
    return queries


def request_run(path: Path) -> Run:
    """Return the candidates as a run."""
    return Run(
        {request.query.id: request.candidates for _, request in read_requests(path)},
        tag="requests",
    )
