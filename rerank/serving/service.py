"""The reranker as a service: jobs in, answers out, whatever the dialect."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from ranklens.rerank.base import Ranking, Reranker
from ranklens.rerank.scales import z
from ranklens.rerank.serving.jobs import (
    Answer,
    FoundSpan,
    OverloadedError,
    RankJob,
    Result,
    SpanChoice,
    TooLargeError,
    UnavailableError,
)
from ranklens.rerank.serving.settings import Settings

__all__ = [
    "Answer",
    "FoundSpan",
    "OverloadedError",
    "RankJob",
    "Result",
    "Service",
    "SpanChoice",
    "TooLargeError",
    "UnavailableError",
]


class Service:
    """One reranker for all requests.

    ``load`` makes it, once, in ``start``; ``model`` is what answers call it.

    >>> service = Service(lambda: reranker, Settings(), model="attention:smollm2-135m")
    """

    def __init__(
        self, load: Callable[[], Reranker], settings: Settings | None = None, *, model: str
    ) -> None:
        self.settings = settings or Settings()
        self.model = model
        self._load = load
        self._reranker: Reranker | None = None

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and warm."""
        return self._reranker is not None

    def start(self) -> None:
        """Load the model and warm it up; blocks."""
        self._reranker = self._load()

    async def rank(self, job: RankJob) -> Answer:
        """Return the answer.

        Raises TooLargeError for too many documents, InvalidInputError for an empty query and
        what else cannot be ranked (HTTP 422), OverloadedError when too many requests wait and
        UnavailableError before the model is ready, while the server stops and when time is up.
        """
        if len(job.documents) > self.settings.max_documents:
            raise TooLargeError(
                f"{len(job.documents)} documents; at most {self.settings.max_documents} a request"
            )
        if self._reranker is None:
            raise UnavailableError("the model is being loaded")
        ranking = await asyncio.to_thread(self._reranker.rank, job.query, job.documents)
        return _answer(job, ranking, self.model)


def _answer(job: RankJob, ranking: Ranking, model: str) -> Answer:
    scores = (
        [ranked.score for ranked in ranking]
        if job.raw_scores
        else [1 / (1 + math.exp(-max(value, -700.0))) for value in z(ranking)]
    )
    results = tuple(
        Result(ranked.index, score, ranked.tokens_cut)
        for ranked, score in zip(ranking, scores, strict=True)
    )
    cut = [ranked.tokens_cut for ranked in ranking]
    return Answer(results[: job.top_n], model, 0, sum(cut), sum(1 for tokens in cut if tokens))
