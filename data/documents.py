"""Where a collection's documents come from: a stream, and look-up by id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.files import Place, Report, refuse, sha256
from ranklens.data.records import Document, Query
from ranklens.data.rows import document_rows, file_format, query_rows, text_field

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
    """Documents in one file, or in all files of a folder in the order of their names.

    JSONL and Parquet have ``_id|id|docid``, ``text|contents`` and perhaps ``title``, TSV has
    ``id<TAB>text``, TREC text ``<DOCNO>``, ``<TEXT>`` and perhaps ``<TITLE>``; see ``rows`` for
    how a name tells them, unless ``form`` does. Files whose name begins with a dot are left out.
    Iterating raises InvalidInputError that names the line for a missing field, a value that is
    not text, and an id that occurs twice. Raises MissingResourceError where there is no file,
    and InvalidInputError for a name that tells no format.
    """

    def __init__(self, path: Path, form: str | None = None) -> None:
        self.path = path
        self._files = [(file, form or file_format(file, "docs")) for file in _files(path)]

    def __iter__(self) -> Iterator[Document]:
        seen: set[str] = set()
        for place, document in self.read():
            if document.id in seen:
                # Looked for now: the places of all documents would not be small.
                first = next(known for known, other in self.read() if other.id == document.id)
                raise place.error(
                    f"document id {document.id!r} occurs twice (first {first.seen_from(place)})"
                )
            seen.add(document.id)
            yield document

    def read(self, report: Report = refuse) -> Iterator[tuple[Place, Document]]:
        """Yield documents with their places, also those whose id was there before."""
        for file, form in self._files:
            for place, row in document_rows(file, form, report):
                try:
                    document = Document(
                        text_field(place, row, _ID_KEYS),
                        text_field(place, row, _TEXT_KEYS),
                        text_field(place, row, ("title",), default=""),
                    )
                except InvalidInputError as error:
                    report(error)
                    continue
                yield place, document

    def get_many(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these ids, by one pass over the file."""
        wanted = set(ids)
        return {document.id: document for document in self if document.id in wanted}

    def size(self) -> int:
        """Return the bytes of the files as they lie on the disk."""
        return sum(file.stat().st_size for file, _ in self._files)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file, or of a folder's files."""
        if self.path.is_file():
            return f"sha256:{sha256(self.path)}"
        digest = hashlib.sha256()
        for file, _ in self._files:
            digest.update(f"{file.relative_to(self.path).as_posix()}\t{sha256(file)}\n".encode())
        return f"sha256:{digest.hexdigest()}"


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not found:
        raise MissingResourceError(
            f"no file in the folder {path}" if path.is_dir() else f"no such file: {path}"
        )
    return found


def read_queries(path: Path, form: str | None = None) -> list[Query]:
    """Read queries from JSONL or Parquet (``_id|id|qid``, ``text|query``), TSV or TREC topics.

    ``form`` as in ``FileDocuments``. Raises InvalidInputError that names the line for a missing
    or empty field and an id that occurs twice.
    """
    first: dict[str, Place] = {}
    queries = []
    for place, query in query_places(path, form):
        if (known := first.setdefault(query.id, place)) != place:
            raise place.error(
                f"query id {query.id!r} occurs twice (first {known.seen_from(place)})"
            )
        queries.append(query)
    return queries


def query_places(
    path: Path, form: str | None = None, report: Report = refuse
) -> Iterator[tuple[Place, Query]]:
    """Yield queries with their places, also those whose id was there before."""
    if not path.is_file():
        raise MissingResourceError(f"no such file: {path}")
    for place, row in query_rows(path, form or file_format(path, "queries"), report):
        try:
            query_id = text_field(place, row, (*_ID_KEYS, "qid", "query_id"))
            text = text_field(place, row, ("text", "query", "title")).strip()
            if not text:
                raise place.error(f"query {query_id!r} has no text")
        except InvalidInputError as error:
            report(error)
            continue
        yield place, Query(query_id, text)


def missing_documents(found: Mapping[str, Document], wanted: Mapping[str, str]) -> None:
    """Raise InvalidInputError when documents of ``wanted`` (document id → query id) are absent."""
    absent = [doc_id for doc_id in wanted if doc_id not in found]
    if absent:
        raise InvalidInputError(
            f"{len(absent)} of {len(wanted)} candidate documents are not in the collection, "
            f"for example {absent[0]!r} of query {wanted[absent[0]]!r}; "
            "are the run and the collection of one data set?"
        )
