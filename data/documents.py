"""Where a collection's documents come from: a stream, and look-up by id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import Place, read_json_lines, read_lines, sha256, shown
from ranklens.data.records import Document, Query

_ID_KEYS = ("_id", "id", "docid", "doc_id")
_TEXT_KEYS = ("text", "contents")


class DocumentSource(Protocol):
    """Documents that are streamed, never all held."""

    def __iter__(self) -> Iterator[Document]:
        """Yield every document in a stable order."""
        ...

    def get_many(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these ids; ids that do not exist are left out."""
        ...

    def fingerprint(self) -> str:
        """Return a string that changes when the documents change."""
        ...


class FileDocuments:
    """Documents in one file, plain or gzip.

    JSONL with ``_id|id|docid``, ``text|contents`` and perhaps ``title``, or TSV with
    ``id<TAB>text``. Iterating raises InvalidInputError that names the line for a missing
    field, a value that is not text, and an id that occurs twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Document]:
        first: dict[str, int] = {}
        for place, document in self._records():
            line = first.setdefault(document.id, place.line)
            if line != place.line:
                raise place.error(
                    f"document id {document.id!r} occurs twice (first on line {line})"
                )
            yield document

    def _records(self) -> Iterator[tuple[Place, Document]]:
        if is_tsv(self.path):
            for place, doc_id, text in read_tsv(self.path):
                yield place, Document(doc_id, text)
            return
        for place, record in read_json_lines(self.path):
            yield (
                place,
                Document(
                    text_field(place, record, _ID_KEYS),
                    text_field(place, record, _TEXT_KEYS),
                    text_field(place, record, ("title",), default=""),
                ),
            )

    def get_many(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these ids, by one pass over the file."""
        wanted = set(ids)
        return {document.id: document for document in self if document.id in wanted}

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file."""
        return f"sha256:{sha256(self.path)}"


def read_queries(path: Path) -> list[Query]:
    """Read queries from JSONL (``_id|id|qid``, ``text|query``) or TSV (``id<TAB>text``).

    Raises InvalidInputError that names the line for a missing or empty field and an id that
    occurs twice.
    """
    if is_tsv(path):
        rows = list(read_tsv(path))
    else:
        rows = [
            (
                place,
                text_field(place, record, (*_ID_KEYS, "qid", "query_id")),
                text_field(place, record, ("text", "query", "title")),
            )
            for place, record in read_json_lines(path)
        ]
    first: dict[str, int] = {}
    for place, query_id, text in rows:
        if not text.strip():
            raise place.error(f"query {query_id!r} has no text")
        if (line := first.setdefault(query_id, place.line)) != place.line:
            raise place.error(f"query id {query_id!r} occurs twice (first on line {line})")
    return [Query(query_id, text.strip()) for _, query_id, text in rows]


def is_tsv(path: Path) -> bool:
    """Say whether a file's name ends like tab-separated text, with or without ``.gz``."""
    return path.name.removesuffix(".gz").endswith((".tsv", ".txt"))


def read_tsv(path: Path) -> Iterator[tuple[Place, str, str]]:
    """Yield ``(place, id, text)`` of a two-column TSV file; InvalidInputError names the line."""
    for place, line in read_lines(path):
        identifier, tab, text = line.partition("\t")
        if not tab or not identifier.strip():
            raise place.error(f"expected id<TAB>text, got {shown(line)}")
        yield place, identifier.strip(), text


def text_field(
    place: Place, record: Mapping[str, Any], keys: tuple[str, ...], default: str | None = None
) -> str:
    """Return the first of these fields that a JSON object has, as text.

    Integers are accepted (MS MARCO ids are often written bare). Raises InvalidInputError that
    names file and line when none is there or the value is something else.
    """
    for key in keys:
        if record.get(key) is not None:
            value = record[key]
            if isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
            if not isinstance(value, str):
                raise place.error(f"the field {key!r} must be text, got {shown(value)}")
            if keys[0] in _ID_KEYS and not value.strip():
                raise place.error(f"the field {key!r} is empty")
            return value
    if default is None:
        raise place.error(f"no field {' or '.join(map(repr, keys))}; found {sorted(record)}")
    return default


def missing_documents(found: Mapping[str, Document], wanted: Mapping[str, str]) -> None:
    """Raise InvalidInputError when documents of ``wanted`` (document id → query id) are absent."""
    absent = [doc_id for doc_id in wanted if doc_id not in found]
    if absent:
        raise InvalidInputError(
            f"{len(absent)} of {len(wanted)} candidate documents are not in the collection, "
            f"for example {absent[0]!r} of query {wanted[absent[0]]!r}; "
            "are the run and the collection of one data set?"
        )
