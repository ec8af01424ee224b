"""Dense retrieval: an encoder's vectors, searched by Faiss."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ranklens.data.encoder import Encoder, Vectors
from ranklens.data.errors import InvalidInputError, NumericalError, UsageError
from ranklens.data.files import write_json
from ranklens.data.records import Document, Query, ScoredDoc
from ranklens.data.runs import Run
from ranklens.retrieval.faiss_index import (
    Kind,
    VectorIndex,
    check_kind,
    index_file,
    sample,
    write_index,
)
from ranklens.retrieval.ids import Ids, write_ids
from ranklens.retrieval.shards import write_shards

Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]
"""Title, total and unit of long work → a context that takes how many more units are done."""


_CUT, _ASKED = "cut.json", "asked.json"
_WORDS = 10
_DRAWN = 200


def _silent(_title: str, _total: int, _unit: str) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _: None)


class DenseRetriever:
    """Documents nearest to the query, by the inner product of an encoder's vectors.

    A document is its title and text, as one. ``kind`` is one of ``faiss_index.KINDS``: a folder
    holds the vectors once, and an index of each kind that was asked for beside them. An
    interrupted build in a folder goes on behind its last whole shard. ``tell`` is given what the
    user should know: texts that were cut, and the recall of an approximate index.
    """

    resumes = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        kind: str = "flat",
        progress: Progress = _silent,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.encoder = encoder
        self.kind: Kind = check_kind(kind)
        self._progress, self._tell = progress, tell
        self._ids: Ids | None = None
        self._index: VectorIndex | None = None
        self._remove: Callable[[], object] = lambda: None

    def index(self, documents: Iterable[Document]) -> None:
        """Encode and index documents in a temporary folder; raises as ``build``."""
        folder = tempfile.mkdtemp(prefix="ranklens-dense-")
        self._remove()
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.build(documents, Path(folder))
        self.open(Path(folder))

    def settings(self) -> dict[str, Any]:
        """Return what the vectors depend on: the encoder's part in passages."""
        return {"retriever": "dense", **self.encoder.settings()}

    def build(self, documents: Iterable[Document], folder: Path) -> dict[str, Any]:
        """Write the vectors of documents into a folder.

        The facts are the number of ``documents``, how many of them were ``cut`` at how many
        ``tokens``, and versions. Raises InvalidInputError when there are no documents,
        NumericalError that names the document for NaN or Inf.
        """
        if isinstance(documents, Iterator):
            documents = list(documents)
        # A look at all of them first: a broken file is found before hours of encoding.
        count = write_ids(folder, (document.id for document in documents))
        if not count:
            raise InvalidInputError("nothing to index: no documents")
        cut = _read_cut(folder)
        openings = _Openings(documents, count)
        with self._progress("encoding", count, "docs") as done:

            def encode(number: int, chunk: list[Document]) -> Vectors:
                texts = [document.full_text for document in chunk]
                vectors = self.encoder.encode_passages(texts, done)
                _check(vectors, [document.id for document in chunk])
                cut[str(number)] = self.encoder.count_cut(texts)
                write_json(folder / _CUT, cut)
                return vectors

            written = write_shards(openings, folder, encode, done)
        if written.computed + written.kept != count:
            # Vectors would stand beside the ids of other documents.
            raise InvalidInputError(
                f"{count} documents when their ids were read, {written.computed + written.kept} "
                "when they were encoded: they change while they are indexed; start again"
            )
        write_json(folder / _ASKED, openings.texts)
        if written.kept:
            self._tell(f"{written.kept} of {count} documents had been encoded before")
        shortened = sum(cut.values())
        if shortened:
            self._tell(
                f"{shortened} of {count} documents are longer than the encoder's "
                f"{self.encoder.limit} tokens: the rest of them is not read"
            )
        return {
            "documents": count,
            "cut": shortened,
            "tokens": self.encoder.limit,
            "versions": self.encoder.versions(),
        }

    def open(self, folder: Path) -> None:
        """Use the vectors that ``build`` wrote, which stay on the disk until they are read.

        The index of a kind that is not there yet is made, and its recall told.
        """
        made = self.kind != "flat" and not index_file(folder, self.kind).is_file()
        if made:
            write_index(folder, self.kind)
        self._ids = Ids(folder)
        self._index = VectorIndex(folder, self.kind)
        if self._index.where != "cpu":
            self._tell(f"Faiss searches on {self._index.where}")
        texts = json.loads((folder / _ASKED).read_text(encoding="utf-8")) if made else []
        if texts:
            recall = self._index.recall(self.encoder.encode_queries(texts))
            self._tell(
                f"{self.kind}: recall@10 {recall:.3f} against flat, asked for the first "
                f"{_WORDS} words of {len(texts)} documents"
            )

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return the ``k`` nearest documents of each query; equal scores by document id.

        Where more score the same as the k-th than there is room for, Faiss chooses among them.

        Raises UsageError before there is an index and for k below 1, NumericalError that names
        the query for NaN or Inf.
        """
        if self._index is None or self._ids is None:
            raise UsageError("search before index: give the retriever its documents first")
        if k < 1:
            raise UsageError(f"k must be at least 1, got {k}")
        vectors = self.encoder.encode_queries([query.text for query in queries])
        _check(vectors, [query.id for query in queries], kind="query")
        found = {}
        for query, (rows, scores) in zip(queries, self._index.search(vectors, k), strict=True):
            ranked = sorted(
                (-float(score), self._ids[int(row)])
                for row, score in zip(rows, scores, strict=True)
            )
            found[query.id] = [ScoredDoc(doc_id, -negative) for negative, doc_id in ranked]
        return Run(found, tag="dense")

    def close(self) -> None:
        """Let go of the index; a temporary one is removed."""
        self._index = self._ids = None
        self._remove()


class _Openings:
    """Documents as they are, while the first words of some, drawn by a fixed seed, are kept.

    They are asked for to measure recall: whole documents as queries are found too easily, since
    lists and graphs are made of such vectors.
    """

    def __init__(self, documents: Iterable[Document], count: int) -> None:
        self._documents = documents
        self._rows = set(sample(count, _DRAWN).tolist())
        self.texts: list[str] = []

    def __iter__(self) -> Iterator[Document]:
        self.texts = []
        for row, document in enumerate(self._documents):
            words = document.full_text.split()[:_WORDS] if row in self._rows else []
            if words:
                self.texts.append(" ".join(words))
            yield document


def _check(vectors: Vectors, ids: Sequence[str], kind: str = "document") -> None:
    good = np.isfinite(vectors).all(axis=1)
    if not good.all():
        raise NumericalError(
            f"the encoder made NaN or Inf of {kind} {ids[int(np.argmin(good))]!r}; "
            "another dtype may help (float32)"
        )


def _read_cut(folder: Path) -> dict[str, int]:
    """Return how many documents of each shard were cut, where an interrupted build noted it."""
    path = folder / _CUT
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
