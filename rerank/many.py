"""Many requests: similar lengths together, results in the order of the input."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

from ranklens.data.errors import UsageError
from ranklens.data.records import Document, Query
from ranklens.rerank.base import Ranking, named_error, pair

_log = logging.getLogger(__name__)

Request = tuple[str | Query, Sequence[str | Document]]


@dataclass(frozen=True, slots=True)
class Throughput:
    """What was ranked so far, and the seconds it took, without those spent by the caller."""

    requests: int = 0
    documents: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def documents_per_second(self) -> float:
        """Documents ranked per second."""
        return self.documents / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens run through the model per second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        return (
            f"{self.requests} requests, {self.documents} documents, {self.tokens} tokens in "
            f"{self.seconds:.1f} s: {self.documents_per_second:.1f} docs/s, "
            f"{self.tokens_per_second:.0f} tokens/s"
        )


class Job(Protocol):
    """A request that is ready to run."""

    @property
    def documents(self) -> int:
        """Its number of documents."""
        ...

    @property
    def tokens(self) -> int:
        """The tokens it puts through the model."""
        ...


J = TypeVar("J", bound=Job)


def ranked_in_windows(
    requests: Iterable[Request],
    prepare: Callable[[int, str | Query, Sequence[str | Document]], J],
    finish: Callable[[J], Ranking],
    *,
    window: int,
    on_progress: Callable[[Throughput], None] | None = None,
) -> Iterator[Ranking]:
    """Yield ``finish(prepare(number, …))`` of each request, in order, counted from 0.

    Of ``window`` requests read at a time the longest runs first: an allocator then reuses
    blocks, and what does not fit fails at once. ``on_progress`` is called after every request;
    the total is logged at the end. An error is raised when the requests before it have been
    yielded, and names the request. Raises UsageError for a window below 1.
    """
    if window < 1:
        raise UsageError(f"window must be at least 1 request, got {window}")
    return _ranked(requests, prepare, finish, window, on_progress or (lambda done: None))


def _ranked(
    requests: Iterable[Request],
    prepare: Callable[[int, str | Query, Sequence[str | Document]], J],
    finish: Callable[[J], Ranking],
    window: int,
    on_progress: Callable[[Throughput], None],
) -> Iterator[Ranking]:
    stream = iter(requests)
    done = Throughput()
    position = 0
    try:
        while True:
            taken: list[Request] = []
            failure: Exception | None = None
            try:
                # Not list(): what was read before the iterable fails is still ranked.
                for request in islice(stream, window):
                    taken.append(request)  # noqa: PERF402
            except Exception as error:
                failure = error
            began = time.perf_counter()
            jobs: dict[int, J] = {}
            for place, request in enumerate(taken):
                try:
                    jobs[place] = prepare(position + place, *pair(request))
                except Exception as error:
                    failure = named_error(error, position + place, request)
                    break
            due = len(jobs)
            rankings: dict[int, Ranking] = {}
            for place in sorted(jobs, key=lambda place: (-jobs[place].tokens, place)):
                job = jobs.pop(place)
                if place >= due:
                    continue
                try:
                    rankings[place] = finish(job)
                except Exception as error:
                    failure, due = named_error(error, position + place, taken[place]), place
                    continue
                now = time.perf_counter()
                done = Throughput(
                    done.requests + 1,
                    done.documents + job.documents,
                    done.tokens + job.tokens,
                    done.seconds + now - began,
                )
                began = now
                on_progress(done)
            for place in range(due):
                yield rankings.pop(place)
            if failure is not None:
                raise failure
            if len(taken) < window:
                return
            position += len(taken)
    finally:
        if done.requests:
            _log.info("ranked %s", done)
