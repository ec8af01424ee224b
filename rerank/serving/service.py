"""The reranker as a service: jobs in, answers out, whatever the dialect."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextvars import ContextVar

from ranklens.data.errors import InvalidInputError
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.base import Reranker, checked_request
from ranklens.rerank.scales import score_map_of
from ranklens.rerank.serving.batching import Batches
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
from ranklens.rerank.serving.metrics import Metrics
from ranklens.rerank.serving.settings import Settings
from ranklens.rerank.serving.tracing import traced
from ranklens.rerank.serving.waiting import Accepted, Waiting

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

_log = logging.getLogger(__name__)
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
"""The number of the request being answered, for the log."""
WARM_UP = ("what is warm", ["A first request finds everything loaded.", "Later ones do too."])
_MOST_RETRY = 60


class Service:
    """One reranker for all requests: a line of accepted jobs, and a thread that runs the model.

    ``load`` makes the reranker, once, in that thread; ``model`` is what answers call it.
    ``begin`` starts the thread and returns, ``start`` waits until the model is warm. After
    ``stop`` nothing is accepted; ``close`` also waits for what was.

    >>> service = Service(lambda: reranker, Settings(), model="attention:smollm2-135m")
    """

    def __init__(
        self, load: Callable[[], Reranker], settings: Settings | None = None, *, model: str
    ) -> None:
        self.settings = settings or Settings()
        self.model = model
        self.metrics = Metrics()
        self.reranker: Reranker | None = None
        self.failed: Exception | None = None
        self.stopping = False
        self.answered_all = True
        self._stopped = 0.0
        self._load = load
        self._waiting = Waiting(self.settings.max_waiting)
        self._loaded = threading.Event()
        self._thread: threading.Thread | None = None
        self._pace = Pace()
        self.metrics.watch_waiting(self._waiting.__len__)

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and warm, and requests are taken."""
        return self.reranker is not None and not self.stopping

    @property
    def loaded(self) -> bool:
        """Whether loading is over: the model is warm, or ``failed`` says why it is not."""
        return self._loaded.is_set()

    @property
    def scale(self) -> str:
        """What scores are when they are not raw: ``probability`` or ``logistic-z``."""
        known = self.reranker is not None and score_map_of(self.reranker) is not None
        return "probability" if known else "logistic-z"

    def begin(self) -> None:
        """Let a thread of its own load the model and then serve; does nothing the second time."""
        if self._thread is None:
            # A daemon: whoever wants to go at once need not wait for a forward pass.
            self._thread = threading.Thread(target=self._serve, name="ranklens-model", daemon=True)
            self._thread.start()

    def start(self) -> None:
        """Begin, and wait until the model is warm; raises what its loading raised."""
        self.begin()
        self._loaded.wait()
        if self.failed is not None:
            raise self.failed

    def stop(self) -> None:
        """Accept nothing more; what was accepted is still answered. Safe in a signal handler."""
        if not self.stopping:
            self._stopped = time.monotonic()
            self.stopping = True

    def close(self) -> bool:
        """Stop, wait for what was accepted, and say whether all of it was answered.

        It is in ``answered_all`` too. From ``stop`` on this has the seconds of the setting
        ``shutdown_grace``; what is not begun by then is answered with an UnavailableError. A
        model that is still being loaded is not waited for: nothing was accepted.
        """
        self.stop()
        self._waiting.close()
        if self._thread is None or not self.loaded:
            return True
        grace = self.settings.shutdown_grace - (time.monotonic() - self._stopped)
        self._thread.join(max(0.0, grace))
        if self._thread.is_alive():
            self.answered_all = False
            self._waiting.abandon(lambda: UnavailableError("the server has stopped"))
        return self.answered_all

    async def rank(self, job: RankJob) -> Answer:
        """Return the answer.

        Raises TooLargeError for too many documents, InvalidInputError for an empty query and
        what else cannot be ranked (HTTP 422), OverloadedError when too many requests wait and
        UnavailableError before the model is ready, while the server stops and when time is up.
        """
        async with self._in_time():
            return await self._rank(job)

    async def rank_each(self, jobs: Iterable[RankJob]) -> list[Answer]:
        """Return the answers of a request of several jobs, which have the time of one together.

        One after another: at once, those of a single request could fill the line. Raises what
        ``rank`` does.
        """
        async with self._in_time():
            return [await self._rank(job) for job in jobs]

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        timeout = self.settings.timeout
        try:
            async with asyncio.timeout(timeout) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise UnavailableError(
                f"not answered within {timeout:g} s", self.retry_after()
            ) from None

    async def _rank(self, job: RankJob) -> Answer:
        settings = self.settings
        if len(job.documents) > settings.max_documents:
            raise TooLargeError(
                f"{len(job.documents)} documents; at most {settings.max_documents} a request"
            )
        checked_request(job.query, job.documents)
        _check_numbers(job)
        with traced(job, self.model, settings.trace_documents) as answered:
            accepted = self._accept(job)
            answer = await asyncio.wrap_future(accepted.future)
            answered(answer)
        self.metrics.answered(len(job.documents), answer)
        return answer

    def retry_after(self) -> int:
        """Return the seconds in which what waits now may be done, by the pace measured so far."""
        return min(_MOST_RETRY, max(1, math.ceil(self._pace.seconds(self._waiting.size))))

    def _accept(self, job: RankJob) -> Accepted:
        if self.stopping:
            raise UnavailableError("the server is stopping")
        if self.reranker is None:
            if self.failed is not None:
                raise UnavailableError("the model could not be loaded", _MOST_RETRY)
            raise UnavailableError("the model is being loaded", 5)
        accepted = Accepted(job)
        if not self._waiting.put(accepted):
            if self.stopping:
                raise UnavailableError("the server is stopping")
            raise OverloadedError(
                f"{self.settings.max_waiting} requests wait already", self.retry_after()
            )
        return accepted

    def _serve(self) -> None:
        try:
            reranker = self._load()
            reranker.rank(*WARM_UP)
        except Exception as error:
            self.failed = error
            self._loaded.set()
            return
        if isinstance(reranker, AttentionReranker) and reranker.documents is not None:
            self.metrics.watch_cache(reranker.documents)
        settings = self.settings
        batches = Batches(reranker, settings, self.model, self.metrics.passes.observe)
        self.reranker = reranker
        self._loaded.set()
        while batch := self._waiting.take(settings.max_batch, settings.batch_wait_ms / 1000):
            began = time.perf_counter()
            size = sum(accepted.size for accepted in batch)
            try:
                batches.answer(batch)
            except BaseException:
                # Nobody may wait for ever, whatever went wrong here.
                _log.exception("the model's thread failed")
                for accepted in batch:
                    if not accepted.future.done():
                        accepted.future.set_exception(RuntimeError("the model's thread failed"))
            self._pace.add(size, time.perf_counter() - began)


class Pace:
    """Seconds a character takes, over the last batches; none are known at first."""

    def __init__(self) -> None:
        self._size = 0.0
        self._seconds = 0.0

    def add(self, size: int, seconds: float) -> None:
        """Take a batch into account; of earlier ones nine tenths stay."""
        self._size = 0.9 * self._size + size
        self._seconds = 0.9 * self._seconds + seconds

    def seconds(self, size: int) -> float:
        """Return how long so many characters will take."""
        return self._seconds * size / self._size if self._size else 0.0


def _check_numbers(job: RankJob) -> None:
    """Raise InvalidInputError for a limit that is none; dialects have their own zeros."""
    for name in ("top_n", "max_tokens_per_doc", "max_tokens_per_query"):
        value = getattr(job, name)
        if value is not None and value < 1:
            raise InvalidInputError(f"{name} must be at least 1: {value}")
    if job.spans is not None and not 0 <= job.spans.threshold <= 1:
        raise InvalidInputError(f"the spans' threshold must lie in 0..1: {job.spans.threshold}")
    if job.spans is not None and job.spans.max_spans is not None and job.spans.max_spans < 1:
        raise InvalidInputError(f"max_spans must be at least 1: {job.spans.max_spans}")
