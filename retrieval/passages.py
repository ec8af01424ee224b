"""Retrieval of passages by any retriever, brought back to the documents that they are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ranklens.data.errors import UsageError
from ranklens.data.parts import Passages, combined, passages_of
from ranklens.data.records import Document, Query, ScoredDoc
from ranklens.data.runs import Run
from ranklens.retrieval.base import Retriever

_FACTOR = 4
"""Passages asked for at first, per document wanted."""


class PassageRetriever:
    """A retriever of documents over one of passages (sizes in words).

    A passage's id is its number within the document, a colon, and the document's id: whatever
    stands in an id, no two are alike, and the index alone says whose a passage is.

    A search takes the 4 · k best passages, and twice as many again for the queries that these
    do not settle: until k documents are found, with ``max`` and ``first`` each better than the
    last passage, or there are no more passages. ``max`` and ``first`` then give what scoring
    every passage would. ``sum`` adds up what was found: passages further down count nothing.
    """

    def __init__(self, inner: Retriever, passages: Passages) -> None:
        self.inner = inner
        self.passages = passages
        self.resumes = inner.resumes

    def index(self, documents: Iterable[Document]) -> None:
        """Index the passages of documents; raises as the inner retriever.

        Documents are read as they come, again where they can be and it needs them again.
        """
        split = _Split(documents, self.passages)
        self.inner.index(iter(split) if isinstance(documents, Iterator) else split)

    def settings(self) -> dict[str, Any]:
        """Return what the inner index depends on, and the sizes of passages."""
        # An index of first passages is another one; max and sum are told apart in the search.
        first = self.passages.combine == "first"
        split = {"size": self.passages.size, "overlap": self.passages.overlap, "first": first}
        return {**self.inner.settings(), "passages": split}

    def build(self, documents: Iterable[Document], folder: Path) -> dict[str, Any]:
        """Write the inner retriever's index of passages; the facts count both."""
        split = _Split(documents, self.passages)
        facts = self.inner.build(iter(split) if isinstance(documents, Iterator) else split, folder)
        return {**facts, "passages": facts["documents"], "documents": split.documents}

    def open(self, folder: Path) -> None:
        """Use the index that ``build`` wrote."""
        self.inner.open(folder)

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents per query, best first, equal ones by id.

        Raises UsageError for k below 1, and as the inner retriever.
        """
        if k < 1:
            raise UsageError(f"k must be at least 1, got {k}")
        found: dict[str, list[ScoredDoc]] = {query.id: [] for query in queries}
        depth, open_ = _FACTOR * k, list(queries)
        tag = ""
        while True:
            run = self.inner.search(open_, depth)
            tag = tag or f"{run.tag}-{self.passages.combine}"
            unsettled = []
            for query in open_:
                hits = run.get(query.id, ())
                docs = self._documents(hits)[:k]
                found[query.id] = docs
                if len(hits) >= depth and not self._settled(docs, hits[-1].score, k):
                    unsettled.append(query)
            if not unsettled:
                return Run(found, tag=tag)
            depth, open_ = 2 * depth, unsettled

    def _settled(self, docs: Sequence[ScoredDoc], last: float, k: int) -> bool:
        if len(docs) < k:
            return False
        # What scores as the last passage may be a document whose id comes first.
        return self.passages.combine == "sum" or docs[-1].score > last

    def close(self) -> None:
        """Close the inner retriever."""
        self.inner.close()

    def _documents(self, hits: Sequence[ScoredDoc]) -> list[ScoredDoc]:
        """Return the documents of passages, which are best first."""
        scores: dict[str, list[float]] = {}
        for hit in hits:
            scores.setdefault(hit.doc_id.partition(":")[2], []).append(hit.score)
        ranked = sorted((-combined(s, self.passages.combine), d) for d, s in scores.items())
        return [ScoredDoc(doc_id, -negative) for negative, doc_id in ranked]


class _Split:
    """The passages of documents, as often as the documents can be read."""

    def __init__(self, documents: Iterable[Document], passages: Passages) -> None:
        self._documents = documents
        self._passages = passages
        self.documents = 0
        """Documents that the last reading met."""

    def __iter__(self) -> Iterator[Document]:
        self.documents = 0
        for document in self._documents:
            self.documents += 1
            for number, passage in enumerate(passages_of(document, self._passages)):
                yield dataclasses.replace(passage, id=f"{number}:{document.id}")
