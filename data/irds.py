"""Collections from ir_datasets ids, through the ir_datasets package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ranklens.data.collection import Collection, assemble
from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.extras import require
from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Judgement, Query


class IrdsDocuments:
    """The documents of an ir_datasets dataset: its iterator and its document store."""

    def __init__(self, dataset: Any, identifier: str) -> None:
        self._dataset = dataset
        self._identifier = identifier

    def __iter__(self) -> Iterator[Document]:
        with _fetching(self._identifier):
            for record in self._dataset.docs_iter():
                yield _document(record)

    def get_many(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these ids from the dataset's store."""
        with _fetching(self._identifier):
            found = self._dataset.docs_store().get_many(list(ids))
        return {doc_id: _document(record) for doc_id, record in found.items()}

    def fingerprint(self) -> str:
        """Return the id: ir_datasets checks the files behind it by its own checksums."""
        return f"irds:{self._identifier}"


def _document(record: Any) -> Document:
    title = getattr(record, "title", "") or ""
    # BEIR-style records have title and text; others say themselves what their text is.
    text = record.text if hasattr(record, "text") else record.default_text()
    return Document(record.doc_id, text, title if hasattr(record, "text") else "")


def load_irds(identifier: str) -> Collection:
    """Load ``identifier``, for example ``beir/scifact/test``; data is fetched by ir_datasets.

    Raises MissingPrerequisiteError without the extra, MissingResourceError for an unknown id
    or data that cannot be fetched, InvalidInputError when documents, queries or qrels lack.
    """
    require("irds", "ir_datasets")
    import ir_datasets

    try:
        dataset = ir_datasets.load(identifier)
    except KeyError:
        raise MissingResourceError(
            f"ir_datasets knows no dataset {identifier!r}; the list is at https://ir-datasets.com"
        ) from None
    lacking = [
        part for part in ("docs", "queries", "qrels") if not getattr(dataset, f"has_{part}")()
    ]
    if lacking:
        raise InvalidInputError(
            f"the dataset {identifier!r} has no {' and no '.join(lacking)}; "
            "choose a subset that has (often /test, /dev or /judged)"
        )
    with _fetching(identifier):
        queries = [Query(q.query_id, q.default_text().strip()) for q in dataset.queries_iter()]
        qrels = Qrels(
            Judgement(q.query_id, q.doc_id, int(q.relevance)) for q in dataset.qrels_iter()
        )
    return assemble(
        name=identifier,
        documents=IrdsDocuments(dataset, identifier),
        queries=queries,
        qrels=qrels,
        # The convention of the TREC deep learning track: of passages grades 2 and 3 are
        # relevant, of documents 1 to 3.
        relevance_level=2 if "trec-dl" in identifier and "passage" in identifier else 1,
        sources={
            "queries": _digest((q.id, q.text) for q in queries),
            "qrels": _digest((q, d, str(g)) for q in qrels for d, g in qrels[q].items()),
        },
    )


@contextmanager
def _fetching(identifier: str) -> Iterator[None]:
    """Turn what ir_datasets raises when it cannot fetch or read data into MissingResourceError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise MissingResourceError(
            f"ir_datasets could not provide {identifier!r}: {error}"
        ) from error


def _digest(rows: Iterable[tuple[str, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update("\t".join(row).encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"
