"""BM25 by Lucene itself, through Pyserini in a process of its own."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.records import Document, Query, ScoredDoc
from ranklens.data.runs import Run
from ranklens.retrieval.analysis import check_language
from ranklens.retrieval.bm25 import check_bm25
from ranklens.retrieval.lucene_process import LuceneProcess, WorkerDiedError

_log = logging.getLogger(__name__)
_HEAP = re.compile(r"\d+[kmgKMG]?")
_INDEX = "lucene"
_QUERIES = 500
"""Queries asked for at a time: what a restart has to do again."""


class LuceneRetriever:
    """Lucene's BM25 with its English or its CJK analyser, as Anserini and Pyserini have it.

    A document is its title and text as one field; with ``multifield`` the text is one, the title
    another, and their scores are added (BEIR's "multifield" indexes). ``rm3`` expands queries
    by RM3 with Anserini's defaults (10 terms of 10 documents, weight 0.5). ``prebuilt`` is the
    name of an index that Pyserini fetches; there is nothing to index then. ``language`` is ``en``
    or ``cjk``, as for ``BM25Retriever``; with a prebuilt index it is that of the queries. ``heap``
    is Java's largest, as for -Xmx. A process that dies is started again once for a search, and
    for an index where the documents can be read again.

    Raises UsageError for values out of range, MissingPrerequisiteError without the ``lucene``
    extra or a Java.
    """

    resumes = False

    def __init__(
        self,
        *,
        k1: float = 0.9,
        b: float = 0.4,
        rm3: bool = False,
        multifield: bool = False,
        prebuilt: str | None = None,
        language: str = "en",
        heap: str = "2g",
    ) -> None:
        check_bm25(k1, b)
        self.language = check_language(language)
        if not _HEAP.fullmatch(heap):
            raise UsageError(f"the heap is {heap!r}; expected a size such as 512m or 4g")
        self.k1, self.b, self.rm3, self.multifield = k1, b, rm3, multifield
        self.prebuilt, self.heap = prebuilt, heap
        self._remove: Callable[[], object] = lambda: None
        self._process: LuceneProcess | None = None
        self._open: dict[str, Any] | None = None
        if prebuilt is not None:
            self._open = {"do": "open", "prebuilt": prebuilt, "language": self._lucene_language}

    @property
    def _lucene_language(self) -> str:
        # Lucene's name for the one is zh: its own ja and ko take dictionaries.
        return {"en": "en", "cjk": "zh"}[self.language]

    @property
    def pid(self) -> int | None:
        """The number of the process, or None while there is none."""
        if self._process is None or self._process.closed:
            return None
        return self._process.pid

    def start(self) -> None:
        """Start the process now, which else the first call does."""
        self._started()

    def index(self, documents: Iterable[Document]) -> None:
        """Index documents in a temporary folder; raises as ``build``."""
        folder = tempfile.mkdtemp(prefix="ranklens-lucene-")
        # With the retriever, or sooner: once there is another.
        self._remove()
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._open = None
        self.build(documents, Path(folder))
        self.open(Path(folder))

    def settings(self) -> dict[str, Any]:
        """Return what an index depends on; k1, b and rm3 belong to the search."""
        return {"retriever": "lucene", "multifield": self.multifield, "language": self.language}

    def build(self, documents: Iterable[Document], folder: Path) -> dict[str, Any]:
        """Write an index into a folder; raises InvalidInputError when there are no documents.

        Raises WorkerDiedError with what the process last said when it ends twice, or once where
        ``documents`` are an iterator.
        """
        if self.prebuilt is not None:
            raise UsageError(f"the index {self.prebuilt!r} is there already: nothing to index")
        request = {
            "do": "index",
            "threads": os.cpu_count() or 1,
            "fields": ["title"] if self.multifield else [],
            "folder": str(folder / _INDEX),
            "language": self._lucene_language,
        }
        again = not isinstance(documents, Iterator)
        while True:
            try:
                count = self._started().ask(request, self._records(documents))["documents"]
                break
            except WorkerDiedError as error:
                self._buried(error, again=again)
                again = False
                # What is written half is nobody's index.
                shutil.rmtree(folder / _INDEX, ignore_errors=True)
        if not count:
            raise InvalidInputError("nothing to index: no documents")
        return {"documents": count, "versions": {"pyserini": version("pyserini")}}

    def open(self, folder: Path) -> None:
        """Use an index that ``build`` wrote."""
        where = str(folder / _INDEX)
        self._open = {"do": "open", "folder": where, "language": self._lucene_language}
        self._started().ask(self._open)

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return the top ``k`` of the documents that share a term with each query.

        Equal scores are ordered by document id. Raises UsageError before ``index`` was called
        and for k below 1; WorkerDiedError as ``index``.
        """
        if self._open is None:
            raise UsageError("search before index: give the retriever its documents first")
        if k < 1:
            raise UsageError(f"k must be at least 1, got {k}")
        found: dict[str, list[ScoredDoc]] = {}
        again = True
        for start in range(0, len(queries), _QUERIES):
            part = queries[start : start + _QUERIES]
            try:
                hits = self._hits(part, k)
            except WorkerDiedError as error:
                self._buried(error, again=again)
                again = False
                hits = self._hits(part, k)
            for query in part:
                ranked = sorted((-score, doc_id) for doc_id, score in hits[query.id])
                found[query.id] = [ScoredDoc(doc_id, -negative) for negative, doc_id in ranked]
        return Run(found, tag="lucene-rm3" if self.rm3 else "lucene")

    def close(self) -> None:
        """End the process; the next call starts another."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _buried(self, error: WorkerDiedError, *, again: bool) -> None:
        """Clear away a process that died; raise its error unless it may be started ``again``."""
        self.close()
        if not again:
            raise error
        _log.warning("%s\nstarting it again", error)

    def _hits(self, queries: Sequence[Query], k: int) -> dict[str, list[tuple[str, float]]]:
        request = {
            "do": "search",
            "queries": [[query.id, _sound(query.text)] for query in queries],
            "k": k,
            "k1": self.k1,
            "b": self.b,
            "rm3": self.rm3,
            "fields": {"contents": 1.0, "title": 1.0} if self.multifield else {},
            "threads": os.cpu_count() or 1,
        }
        found: dict[str, list[tuple[str, float]]] = self._started().ask(request)["hits"]
        return found

    def _started(self) -> LuceneProcess:
        """Return the process, started and with the index open where there is one."""
        if self._process is None or self._process.closed:
            self._process = LuceneProcess(self.heap)
            if self._open is not None:
                self._process.ask(self._open)
        return self._process

    def _records(self, documents: Iterable[Document]) -> Iterator[dict[str, str]]:
        for document in documents:
            if self.multifield:
                fields = {"contents": document.text, "title": document.title}
            else:
                fields = {"contents": document.full_text}
            yield {"id": document.id, **{name: _sound(text) for name, text in fields.items()}}


def _sound(text: str) -> str:
    """Return text without halves of characters, which Java's strings cannot take from here."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
