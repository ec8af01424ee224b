"""The first stages of the command line, described before they are built."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ranklens.cli.specs import parse_passages, pull_model
from ranklens.data.errors import UsageError

if TYPE_CHECKING:
    from ranklens.retrieval.base import Retriever
    from ranklens.retrieval.dense import DenseRetriever

RETRIEVERS = ("bm25", "lucene", "dense", "hybrid")
RETRIEVER_FORMS = "bm25, lucene, dense[:MODEL] or hybrid[:MODEL]"
DEFAULT_ENCODER = "minilm-l6"
_VERSIONS = {
    "bm25": ("bm25s", "PyStemmer"),
    "lucene": ("pyserini",),
    "dense": ("sentence-transformers", "torch", "transformers"),
    "hybrid": ("bm25s", "PyStemmer", "ranx", "sentence-transformers", "torch", "transformers"),
}
_DENSE = ("torch", "transformers", "sentence_transformers", "faiss")
# The modules that a retriever takes, by the extra that brings them.
_EXTRAS: dict[str, dict[str, tuple[str, ...]]] = {
    "lucene": {"lucene": ("pyserini", "jnius")},
    "dense": {"dense": _DENSE},
    "hybrid": {"hybrid": ("ranx",), "dense": _DENSE},
}
_ENCODED = ("dense", "hybrid")
# The retrievers that have an option, by the name of the field.
_OF = {
    "k1": ("bm25", "lucene", "hybrid"),
    "b": ("bm25", "lucene", "hybrid"),
    "language": ("bm25", "lucene", "hybrid"),
    "rm3": ("lucene",),
    "multifield": ("lucene",),
    "prebuilt": ("lucene",),
    "heap": ("lucene",),
    "fusion": ("hybrid",),
    "faiss": _ENCODED,
    "pooling": _ENCODED,
    "query_prompt": _ENCODED,
    "passage_prompt": _ENCODED,
    "normalize": _ENCODED,
    "max_tokens": _ENCODED,
    "device": _ENCODED,
    "dtype": _ENCODED,
}
_SPELLED = {"normalize": "--no-normalize"}


@dataclass(frozen=True, slots=True)
class RetrieverSpec:
    """A retriever by name and what it is to be set to.

    See ``BM25Retriever``, ``LuceneRetriever``, ``DenseRetriever`` with its ``Encoder``, and
    ``HybridRetriever`` (bm25 and dense) for the settings; None is the retriever's own, as
    ``language`` is English that nobody asked for. Raises UsageError for an unknown name, for what
    a retriever does not have, and for values out of range.
    """

    name: str = "bm25"
    model: str = DEFAULT_ENCODER
    k1: float = 0.9
    b: float = 0.4
    rm3: bool = False
    multifield: bool = False
    prebuilt: str | None = None
    heap: str | None = None
    language: str | None = None
    passages: str | None = None
    fusion: str | None = None
    faiss: str = "flat"
    pooling: str | None = None
    query_prompt: str | None = None
    passage_prompt: str | None = None
    normalize: bool = True
    max_tokens: int | None = None
    device: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        from ranklens.retrieval.analysis import check_language
        from ranklens.retrieval.bm25 import check_bm25

        if self.name not in RETRIEVERS:
            raise UsageError(f"unknown retriever {self.name!r}; choose {RETRIEVER_FORMS}")
        for field in dataclasses.fields(self):
            owners = _OF.get(field.name)
            if owners and self.name not in owners and getattr(self, field.name) != field.default:
                option = _SPELLED.get(field.name, f"--{field.name.replace('_', '-')}")
                raise UsageError(f"{option} needs --retriever {' or '.join(owners)}")
        check_bm25(self.k1, self.b)
        check_language(self.language or "en")
        parse_passages(self.passages)
        if self.passages is not None and self.prebuilt is not None:
            raise UsageError("--passages says how to index; --prebuilt is an index already")
        if self.multifield and self.prebuilt is not None:
            raise UsageError("--multifield says how to index; --prebuilt is an index already")
        if self.encodes:
            from ranklens.retrieval.faiss_index import check_kind

            check_kind(self.faiss)
        if self.fusion is not None:
            from ranklens.retrieval.fusion import Fusion

            Fusion.parse(self.fusion)

    @property
    def watches(self) -> bool:
        """Whether documents in a language that nobody named are worth a warning."""
        return self.language is None and self.name in _OF["language"]

    @property
    def encodes(self) -> bool:
        """Whether a model makes vectors of queries and documents."""
        return self.name in _ENCODED

    @classmethod
    def parse(cls, text: str, **settings: Any) -> RetrieverSpec:
        """Read ``NAME`` or ``NAME:MODEL``; ``settings`` are the other fields."""
        name, colon, model = text.partition(":")
        if colon and (name not in _ENCODED or not model):
            raise UsageError(f"unknown retriever {text!r}; choose {RETRIEVER_FORMS}")
        return cls(name, model or DEFAULT_ENCODER, **settings)

    @classmethod
    def of_run(cls, text: str, device: str | None) -> RetrieverSpec:
        """Read ``NAME`` or ``NAME:MODEL``, an encoder's device being the reranker's."""
        spec = cls.parse(text)
        return dataclasses.replace(spec, device=device) if spec.encodes else spec

    def build(self) -> Retriever:
        """Return the retriever; raises as it does."""
        self._require()
        if self.name != "hybrid":
            return self._split(self._single(self.name))
        from ranklens.retrieval.fusion import Fusion
        from ranklens.retrieval.hybrid import HybridRetriever

        fusion = None if self.fusion is None else Fusion.parse(self.fusion)
        parts = {name: self._split(self._single(name)) for name in ("bm25", "dense")}
        return HybridRetriever(parts, fusion)

    def _require(self) -> None:
        """Raise MissingPrerequisiteError now: what is searched by comes after hours of encoding."""
        from ranklens.data.extras import require

        for extra, modules in _EXTRAS.get(self.name, {}).items():
            require(extra, *modules)

    def _split(self, retriever: Retriever) -> Retriever:
        """Return the retriever over passages, where these are asked for."""
        passages = parse_passages(self.passages)
        if passages is None:
            return retriever
        from ranklens.retrieval.passages import PassageRetriever

        return PassageRetriever(retriever, passages)

    def _single(self, name: str) -> Retriever:
        if name == "dense":
            return self._dense()
        if name == "lucene":
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
        from ranklens.retrieval.bm25 import BM25Retriever

        return BM25Retriever(k1=self.k1, b=self.b, language=self.language or "en")

    def _dense(self) -> DenseRetriever:
        from ranklens.cli.output import note
        from ranklens.cli.progress import progress
        from ranklens.data.encoder import Encoder, check_pooling
        from ranklens.retrieval.dense import DenseRetriever

        encoder = Encoder(
            self.model,
            pooling=None if self.pooling is None else check_pooling(self.pooling),
            query_prompt=self.query_prompt,
            passage_prompt=self.passage_prompt,
            normalize=self.normalize,
            max_tokens=self.max_tokens,
            device=self.device,
            dtype=self.dtype,
        )
        pull_model(self.model)
        return DenseRetriever(encoder, kind=self.faiss, progress=progress, tell=note)

    def describe(self) -> dict[str, Any]:
        """Return what a retrieval depends on beside collection and depth.

        An encoder's model is pulled where it is not there yet. Raises MissingPrerequisiteError
        without what the retriever needs.
        """
        self._require()
        found: dict[str, Any] = {"retriever": self.name}
        if self.name != "dense":
            from ranklens.retrieval.analysis import check_language

            language = check_language(self.language or "en")
            found |= {"k1": self.k1, "b": self.b, "language": language}
        if self.name == "lucene":
            found |= {"rm3": self.rm3, "multifield": self.multifield, "prebuilt": self.prebuilt}
        if self.encodes:
            dense = self._dense()
            found |= {
                "faiss": self.faiss,
                "query_prompt": self.query_prompt,
                "encoder": dense.settings(),
            }
        if self.passages is not None:
            found["passages"] = self.passages
        if self.name == "hybrid":
            from ranklens.retrieval.fusion import Fusion

            found["fusion"] = self.fusion or str(Fusion())
        return {**found, "versions": {name: version(name) for name in _VERSIONS[self.name]}}
