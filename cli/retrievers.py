"""The first stages of the command line, described before they are built."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import UsageError

if TYPE_CHECKING:
    from ranklens.retrieval.bm25 import BM25Retriever
    from ranklens.retrieval.lucene import LuceneRetriever

RETRIEVERS = ("bm25", "lucene")
_VERSIONS = {"bm25": ("bm25s", "PyStemmer"), "lucene": ("pyserini",)}


@dataclass(frozen=True, slots=True)
class RetrieverSpec:
    """A retriever by name and what it is to be set to; see ``BM25Retriever``, ``LuceneRetriever``.

    ``heap`` None is the retriever's own, ``language`` None English that nobody asked for. Raises
    UsageError for an unknown name, and for what a retriever does not have.
    """

    name: str = "bm25"
    k1: float = 0.9
    b: float = 0.4
    rm3: bool = False
    multifield: bool = False
    prebuilt: str | None = None
    heap: str | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        from ranklens.retrieval.analysis import check_language
        from ranklens.retrieval.bm25 import check_bm25

        if self.name not in RETRIEVERS:
            raise UsageError(f"unknown retriever {self.name!r}; choose {' or '.join(RETRIEVERS)}")
        check_bm25(self.k1, self.b)
        check_language(self.language or "en")
        given = (self.rm3, self.multifield, self.prebuilt is not None, self.heap is not None)
        names = ("--rm3", "--multifield", "--prebuilt", "--heap")
        of_lucene = [name for name, there in zip(names, given, strict=True) if there]
        if of_lucene and self.name != "lucene":
            raise UsageError(f"{', '.join(of_lucene)} needs --retriever lucene")
        if self.multifield and self.prebuilt is not None:
            raise UsageError("--multifield says how to index; --prebuilt is an index already")

    def build(self) -> BM25Retriever | LuceneRetriever:
        """Return the retriever; raises as it does."""
        if self.name == "bm25":
            from ranklens.retrieval.bm25 import BM25Retriever

            return BM25Retriever(k1=self.k1, b=self.b, language=self.language or "en")
        from ranklens.retrieval.lucene import LuceneRetriever

        return LuceneRetriever(
            k1=self.k1,
            b=self.b,
            rm3=self.rm3,
            multifield=self.multifield,
            prebuilt=self.prebuilt,
            language=self.language or "en",
            **({} if self.heap is None else {"heap": self.heap}),
        )

    def describe(self) -> dict[str, Any]:
        """Return what a retrieval depends on beside collection and depth."""
        from ranklens.retrieval.analysis import check_language

        found: dict[str, Any] = {"retriever": self.name, "k1": self.k1, "b": self.b}
        found["language"] = check_language(self.language or "en")
        if self.name == "lucene":
            found |= {"rm3": self.rm3, "multifield": self.multifield, "prebuilt": self.prebuilt}
        return {**found, "versions": {name: version(name) for name in _VERSIONS[self.name]}}
