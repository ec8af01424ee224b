"""Collections from ir_datasets ids, through the ir_datasets package."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ranklens.data.collection import Collection, assemble
from ranklens.data.errors import InvalidInputError, MissingResourceError, RanklensError
from ranklens.data.extras import require
from ranklens.data.irds_files import way_out
from ranklens.data.presets import find_preset
from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Judgement, Query, ScoredDoc
from ranklens.data.runs import Run

SCOREDDOCS = "scoreddocs"
"""The name of the candidates that a dataset brings along."""
_TITLES = ("title", "document_title", "page_title", "headline")
# What unpacking and parsing raise when a file is damaged or not what its name says.
_DAMAGED = (
    ValueError,
    KeyError,
    AssertionError,
    EOFError,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
)


class IrdsDocuments:
    """The documents of an ir_datasets dataset: its iterator and its document store."""

    def __init__(self, dataset: Any, identifier: str) -> None:
        self._dataset = dataset
        self._identifier = identifier

    def __iter__(self) -> Iterator[Document]:
        with _fetching(self._identifier):
            for record in self._dataset.docs_iter():
                yield _document(record, self._identifier)

    def get_many(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these ids from the dataset's store."""
        with _fetching(self._identifier):
            found = self._dataset.docs_store().get_many(list(ids))
            return {doc_id: _document(record, self._identifier) for doc_id, record in found.items()}

    def fingerprint(self) -> str:
        """Return the id: ir_datasets checks the files behind it by its own checksums."""
        return f"irds:{self._identifier}"


def _document(record: Any, identifier: str) -> Document:
    """Return a record's title and text; the text of one without is what else it is read as.

    ``default_text`` is what ir_datasets says that a reader sees: title and abstract, headings
    and body, never the URL.
    """
    titles = (getattr(record, name, None) for name in _TITLES)
    title = next((value for value in titles if isinstance(value, str)), "")
    text = getattr(record, "text", None)
    if not isinstance(text, str):
        if not hasattr(record, "default_text"):
            raise InvalidInputError(
                f"the documents of {identifier!r} are no texts ({type(record).__name__})"
            )
        text = record.default_text()
        if text.startswith(title):
            text = text.removeprefix(title).lstrip()
        else:
            title = ""
    _check_text(identifier, f"document {record.doc_id!r}", title + text)
    return Document(record.doc_id, text, title)


def _query(record: Any, identifier: str) -> Query:
    # BRIGHT's queries have a text, and nothing that says it is what a reader sees.
    default = getattr(record, "default_text", None)
    text = getattr(record, "text", None) if default is None else default()
    if not isinstance(text, str):
        raise InvalidInputError(
            f"the queries of {identifier!r} are no texts ({type(record).__name__})"
        )
    _check_text(identifier, f"query {record.query_id!r}", text)
    return Query(record.query_id, text.strip())


def _check_text(identifier: str, whose: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(
            f"the dataset {identifier!r}: {whose} holds half of a surrogate pair, which is not text"
        ) from None


def load_irds(identifier: str) -> Collection:
    """Load ``identifier``, for example ``beir/scifact/test``; data is fetched by ir_datasets.

    Candidates that the dataset brings along are named ``scoreddocs``. Without qrels nothing is
    judged. Raises MissingPrerequisiteError without the extra, MissingResourceError for an
    unknown id or data that cannot be fetched (the message says which file to put where),
    InvalidInputError when documents or queries lack, and when something cannot be read.
    """
    require("irds", "ir_datasets")
    import ir_datasets

    try:
        dataset = ir_datasets.load(identifier)
    except KeyError:
        raise MissingResourceError(
            f"ir_datasets knows no dataset {identifier!r}; the list is at https://ir-datasets.com"
        ) from None
    lacking = [part for part in ("docs", "queries") if not getattr(dataset, f"has_{part}")()]
    if lacking:
        raise InvalidInputError(
            f"the dataset {identifier!r} has no {' and no '.join(lacking)}; "
            "choose a subset that has (often /test, /dev or /judged)"
        )
    qrels = None
    with _fetching(identifier):
        queries = [_query(record, identifier) for record in dataset.queries_iter()]
        if dataset.has_qrels():
            qrels = Qrels(
                Judgement(q.query_id, q.doc_id, int(q.relevance)) for q in dataset.qrels_iter()
            )
    sources = {"queries": _digest((q.id, q.text) for q in queries)}
    if qrels is not None:
        sources["qrels"] = _digest((q, d, str(g)) for q in qrels for d, g in qrels[q].items())
    brought = dataset.has_scoreddocs()
    preset = find_preset(identifier, sum(map(len, (qrels or {}).values())))
    return assemble(
        name=identifier,
        documents=IrdsDocuments(dataset, identifier),
        queries=queries,
        qrels=qrels,
        candidate_runs={SCOREDDOCS: partial(_scoreddocs, dataset, identifier)} if brought else {},
        relevance_level=preset.relevance_level,
        remove_query=preset.remove_query,
        notes=preset.notes,
        sources=sources,
    )


def _scoreddocs(dataset: Any, identifier: str) -> Run:
    """Return the dataset's candidates by score; equal scores stay in the dataset's order."""
    found: dict[str, list[ScoredDoc]] = {}
    with _fetching(identifier):
        for row in dataset.scoreddocs_iter():
            found.setdefault(row.query_id, []).append(ScoredDoc(row.doc_id, float(row.score)))
    try:
        return Run(
            {
                query_id: sorted(docs, key=lambda doc: -doc.score)
                for query_id, docs in found.items()
            },
            tag=SCOREDDOCS,
        )
    except InvalidInputError as error:
        raise InvalidInputError(f"the {SCOREDDOCS} of {identifier!r}: {error}") from None


@contextmanager
def _fetching(identifier: str) -> Iterator[None]:
    """Turn what ir_datasets raises when it cannot fetch or read data into our errors."""
    try:
        yield
    except RanklensError:
        raise
    except (OSError, RuntimeError) as error:
        raise MissingResourceError(
            f"ir_datasets could not provide {identifier!r}: {way_out(error)}"
        ) from error
    except _DAMAGED as error:
        raise InvalidInputError(
            f"the data of {identifier!r} cannot be read: {type(error).__name__}: {error}"
        ) from error


def _digest(rows: Iterable[tuple[str, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update("\t".join(row).encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"
