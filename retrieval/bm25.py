"""BM25 in Lucene's variant, by bm25s: no Java, an index in memory or mapped into it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.records import Document, Query, ScoredDoc
from ranklens.data.runs import Run
from ranklens.retrieval.analysis import analyzer_of, check_language
from ranklens.retrieval.ids import Ids, write_ids


def check_bm25(k1: float, b: float) -> None:
    """Raise UsageError for parameters of BM25 that are out of range."""
    if not 0 <= k1 < math.inf:
        raise UsageError(f"k1 must be a finite number of at least 0, got {k1}")
    if not 0 <= b <= 1:
        raise UsageError(f"b must lie between 0 and 1, got {b}")


class BM25Retriever:
    """Lucene's BM25 over title and text.

    ``score(q, d) = Σ_t idf(t) · tf / (tf + k1 · (1 − b + b · |d| / avg|d|))`` with
    ``idf(t) = ln(1 + (N − df + 0.5) / (df + 0.5))`` (Kamphuis et al. 2020, "Lucene (accurate)").
    ``language`` says how text becomes terms: ``en``, or ``cjk`` (also ``zh``, ``ja``, ``ko``).
    """

    resumes = False

    def __init__(self, *, k1: float = 0.9, b: float = 0.4, language: str = "en") -> None:
        check_bm25(k1, b)
        self.k1 = k1
        self.b = b
        self.language = check_language(language)
        self._analyzer = analyzer_of(language)
        self._ids: Sequence[str] | Ids = []
        self._vocabulary: dict[str, int] = {}
        self._model: Any = None

    def index(self, documents: Iterable[Document]) -> None:
        """Index documents; raises InvalidInputError when there are none or none has a word.

        What was indexed before stays when this fails.
        """
        self._ids, self._vocabulary, self._model = self._made(documents)

    def settings(self) -> dict[str, Any]:
        """Return what an index depends on: bm25s stores scores, so k1 and b are in it."""
        return {"retriever": "bm25", "k1": self.k1, "b": self.b, "language": self.language}

    def build(self, documents: Iterable[Document], folder: Path) -> dict[str, Any]:
        """Write an index into a folder; raises as ``index``."""
        ids, _, model = self._made(documents)
        model.save(folder, show_progress=False)
        versions = {name: version(name) for name in ("bm25s", "PyStemmer")}
        return {"documents": write_ids(folder, ids), "versions": versions}

    def open(self, folder: Path) -> None:
        """Use an index that ``build`` wrote; its scores stay on the disk until they are read."""
        import bm25s

        self._model = bm25s.BM25.load(folder, mmap=True, show_progress=False)
        self._vocabulary = self._model.vocab_dict
        self._ids = Ids(folder)

    def _made(self, documents: Iterable[Document]) -> tuple[list[str], dict[str, int], Any]:
        import bm25s

        ids: list[str] = []
        vocabulary: dict[str, int] = {}
        corpus: list[list[int]] = []
        for document in documents:
            ids.append(document.id)
            terms = self._analyzer(document.full_text)
            corpus.append([vocabulary.setdefault(term, len(vocabulary)) for term in terms])
        if not vocabulary:
            raise InvalidInputError(
                f"nothing to index: {len(ids)} documents with no word among them"
            )
        model = bm25s.BM25(method="lucene", k1=self.k1, b=self.b)
        model.index((corpus, vocabulary), show_progress=False)
        return ids, vocabulary, model

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return the top ``k`` of the documents that share a term with each query.

        Equal scores are ordered by document id. Raises UsageError before ``index`` was called
        and for k below 1.
        """
        if self._model is None:
            raise UsageError("search before index: give the retriever its documents first")
        if k < 1:
            raise UsageError(f"k must be at least 1, got {k}")
        return Run({query.id: self._top(query.text, k) for query in queries}, tag="bm25")

    def close(self) -> None:
        """Do nothing: the index goes with the retriever."""

    def _top(self, text: str, k: int) -> list[ScoredDoc]:
        terms = [self._vocabulary[t] for t in self._analyzer(text) if t in self._vocabulary]
        if not terms:
            return []
        scores = self._model.get_scores_from_ids(terms)
        matching = np.flatnonzero(scores > 0)
        if len(matching) > k:
            # Everything that ties with the k-th is kept until ids have decided.
            threshold = np.partition(scores[matching], -k)[-k]
            matching = matching[scores[matching] >= threshold]
        ranked = sorted((-float(scores[i]), self._ids[int(i)]) for i in matching)[:k]
        return [ScoredDoc(doc_id, -negative) for negative, doc_id in ranked]
