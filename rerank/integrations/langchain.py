"""LangChain: a document compressor, and the same as a runnable.

Written for langchain-core 1: ``BaseDocumentCompressor`` is what ``ContextualCompressionRetriever``
(of langchain-classic) takes; langchain-core itself advises runnables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ranklens.data.errors import InvalidInputError
from ranklens.data.extras import require
from ranklens.rerank.base import RankedDocument, Reranker
from ranklens.rerank.integrations.ranked import DEFAULT, check_top, described, loaded, ranked

try:
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.runnables import Runnable, RunnableLambda
    from pydantic import ConfigDict, Field, PrivateAttr, field_serializer
except ImportError:
    require("langchain", "langchain_core")
    raise

_EXPECTED = 'expected {"query": str, "documents": list}'


class RanklensCompressor(BaseDocumentCompressor):
    """Keeps the ``top_n`` documents that answer a query best, best first.

    ``reranker`` is a spec, whose model is loaded here and once, or a ``Reranker``; ``settings``
    are what ``Reranker.from_spec`` takes beside a spec. It reads ``page_content``. What comes
    back are copies with the score, a float, in ``metadata[score_key]``; ids, types and other
    metadata are kept. Scores are the reranker's own and comparable within one list only.

    Errors come from ``Reranker.from_spec`` here and from ``Reranker.rank`` at each call;
    ``top_n`` below 1 is an InvalidInputError, None keeps all.

    >>> compressor = RanklensCompressor(reranker="attention:smollm2-135m", top_n=2)
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    reranker: str | Reranker = Field(default=DEFAULT, description="A spec or a reranker.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Those of a spec.")
    top_n: int | None = Field(default=3, description="Documents to keep; None for all.")
    score_key: str = Field(default="relevance_score", description="Where metadata has the score.")
    _loaded: Reranker = PrivateAttr()

    def __init__(
        self,
        reranker: str | Reranker = DEFAULT,
        *,
        settings: Mapping[str, Any] | None = None,
        top_n: int | None = 3,
        score_key: str = "relevance_score",
        **unknown: Any,
    ) -> None:
        # Pydantic refuses what is unknown, before a model is loaded for nothing.
        fields: dict[str, Any] = {
            "reranker": reranker,
            "settings": dict(settings or {}),
            "top_n": top_n,
            "score_key": score_key,
        }
        super().__init__(**fields, **unknown)
        check_top("top_n", top_n)
        self._loaded = loaded(reranker, **self.settings)

    @field_serializer("reranker")
    def _written(self, reranker: str | Reranker) -> str:
        return described(reranker)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return copies of the best documents, best first; ``callbacks`` have nothing to hear."""
        texts = [document.page_content for document in documents]
        return self._placed(documents, ranked(self._loaded, query, texts, self.top_n))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return the same as ``compress_documents``; the model reads in another thread."""
        texts = [document.page_content for document in documents]
        best = await asyncio.to_thread(ranked, self._loaded, query, texts, self.top_n)
        return self._placed(documents, best)

    def as_runnable(self) -> Runnable[dict[str, Any], list[Document]]:
        """Return a runnable that takes ``{"query": str, "documents": [...]}``.

        What it returns is the list of ``compress_documents``, so that it can stand in a chain.
        """

        def rerank(request: dict[str, Any]) -> list[Document]:
            return self.compress_documents(*_request(request))

        async def arerank(request: dict[str, Any]) -> list[Document]:
            return await self.acompress_documents(*_request(request))

        return RunnableLambda(rerank, afunc=arerank, name=type(self).__name__)

    def _placed(
        self, documents: Sequence[Document], best: Sequence[RankedDocument]
    ) -> list[Document]:
        return [
            documents[one.index].model_copy(
                update={"metadata": documents[one.index].metadata | {self.score_key: one.score}}
            )
            for one in best
        ]


def _request(request: object) -> tuple[Sequence[Document], str]:
    if not isinstance(request, Mapping):
        raise InvalidInputError(f"{_EXPECTED}, got {type(request).__name__}")
    for key in ("query", "documents"):
        if key not in request:
            raise InvalidInputError(f"{_EXPECTED}; {key!r} is missing")
    return request["documents"], request["query"]
