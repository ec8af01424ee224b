"""Haystack: a ranker component for pipelines, also asynchronous ones, that can be written down.

Written for Haystack 3, where a pipeline loads other packages' components only if it is told to:
``Pipeline.loads(text, allowed_modules=["ranklens"])``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

from ranklens.data.errors import UsageError
from ranklens.data.extras import require
from ranklens.rerank.base import Ranking, Reranker
from ranklens.rerank.integrations.ranked import (
    DEFAULT,
    check_top,
    described,
    loaded,
    whole_ranking,
)
from ranklens.rerank.scales import keep, score_map_of, unit_interval

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.utils import ComponentDevice
except ImportError:
    require("haystack", "haystack")
    raise


@component
class RanklensRanker:
    """Orders documents by how well they answer a query, best first.

    ``reranker`` is a spec, whose model ``warm_up`` loads once, or a ``Reranker``; ``settings``
    are what ``Reranker.from_spec`` takes beside a spec. It reads ``content`` behind the values of
    ``meta_fields_to_embed``, joined by ``embedding_separator``; of documents with the same id
    only the one that scored highest before. What comes back are copies with the new score.

    ``scale_score`` puts scores into [0, 1], see ``ranklens.rerank.scales.unit_interval``; without
    it they are the reranker's own. ``score_threshold`` keeps documents that score at least that
    much, on the scale that is returned; then the best ``top_k`` are kept.

    ``top_k`` below 1 is an InvalidInputError, a ValueError.

    >>> ranker = RanklensRanker(reranker="attention:smollm2-135m", top_k=2)
    """

    def __init__(
        self,
        *,
        reranker: str | Reranker = DEFAULT,
        settings: dict[str, Any] | None = None,
        device: ComponentDevice | None = None,
        top_k: int = 10,
        scale_score: bool = True,
        score_threshold: float | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
    ) -> None:
        check_top("top_k", top_k)
        self.reranker = reranker
        self.settings = dict(settings or {})
        self.device = device
        self.top_k = top_k
        self.scale_score = scale_score
        self.score_threshold = score_threshold
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.embedding_separator = embedding_separator
        self._loaded: Reranker | None = None
        self._loading = threading.Lock()

    def warm_up(self) -> None:
        """Load the reranker, unless that has been done; raises as ``Reranker.from_spec``."""
        self._ready()

    async def warm_up_async(self) -> None:
        """Load the reranker in another thread, unless that has been done."""
        await asyncio.to_thread(self.warm_up)

    def close(self) -> None:
        """Let go of the reranker; ``warm_up`` loads it again."""
        self._loaded = None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``from_dict`` makes the component of; UsageError for a reranker object."""
        if not isinstance(self.reranker, str):
            raise UsageError(
                f"{described(self.reranker)} was given as an object, which cannot be written "
                f"down; give RanklensRanker a spec such as {DEFAULT!r}, with settings"
            )
        return default_to_dict(
            self,
            reranker=self.reranker,
            settings=self.settings,
            device=self.device,
            top_k=self.top_k,
            scale_score=self.scale_score,
            score_threshold=self.score_threshold,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RanklensRanker:
        """Return the component that ``to_dict`` wrote down; its model is not loaded yet."""
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """Return ``{"documents": [...]}``, best first; None stands for the component's setting.

        Raises InvalidInputError for ``top_k`` below 1, and as ``Reranker.rank``.
        """
        most = self._most(top_k)
        if not documents:
            return {"documents": []}
        reranker = self._ready()
        distinct = _distinct(documents)
        ranking = whole_ranking(reranker, query, [self._text(one) for one in distinct])
        if self.scale_score if scale_score is None else scale_score:
            scores = unit_interval(ranking, score_map_of(reranker))
            ranking = Ranking(
                dataclasses.replace(one, score=score)
                for one, score in zip(ranking, scores, strict=True)
            )
        threshold = self.score_threshold if score_threshold is None else score_threshold
        if threshold is not None:
            ranking = keep(ranking, threshold)
        return {
            "documents": [
                dataclasses.replace(
                    distinct[one.index], score=one.score, meta=dict(distinct[one.index].meta)
                )
                for one in ranking[:most]
            ]
        }

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """Return the same as ``run``; the model is loaded and reads in another thread."""
        return await asyncio.to_thread(
            self.run, query, documents, top_k, scale_score, score_threshold
        )

    def _most(self, top_k: int | None) -> int:
        check_top("top_k", top_k)
        return self.top_k if top_k is None else top_k

    def _ready(self) -> Reranker:
        """Return the reranker; the first of several threads loads it, the others wait."""
        with self._loading:
            if self._loaded is None:
                device = None if self.device is None else self.device.to_torch_str()
                self._loaded = loaded(self.reranker, **{"device": device} | self.settings)
            return self._loaded

    def _text(self, document: Document) -> str:
        values = (document.meta.get(field) for field in self.meta_fields_to_embed)
        shown = [str(value) for value in values if value is not None and value != ""]
        return self.embedding_separator.join([*shown, document.content or ""])


def _distinct(documents: Sequence[Document]) -> list[Document]:
    """Return one document per id, in the place of its first: the one that scores highest."""
    best: dict[str, Document] = {}
    for document in documents:
        known = best.get(document.id)
        if known is None or _score(document) > _score(known):
            best[document.id] = document
    return list(best.values())


def _score(document: Document) -> float:
    return float("-inf") if document.score is None else document.score
