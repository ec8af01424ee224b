"""The line of accepted jobs: bounded, in order of arrival, taken several at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from ranklens.rerank.serving.jobs import Answer, RankJob


@dataclass(eq=False, slots=True)
class Accepted:
    """A job that will be answered: ``future`` is cancelled when nobody waits for it any more.

    ``size``: the characters of query and documents, by which its work is estimated.
    """

    job: RankJob
    future: Future[Answer] = field(default_factory=Future)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.job.query) + sum(map(len, self.job.documents))


class Waiting:
    """At most ``most`` jobs that are accepted and not begun."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: deque[Accepted] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def size(self) -> int:
        """The characters of all that waits."""
        with self._changed:
            return sum(accepted.size for accepted in self._jobs)

    def put(self, accepted: Accepted) -> bool:
        """Add a job; False where there is no place, or where the line is closed."""
        with self._changed:
            if len(self._jobs) >= self._most:
                # Those whose clients have gone make room.
                self._jobs = deque(one for one in self._jobs if not one.future.cancelled())
            if self._closed or len(self._jobs) >= self._most:
                return False
            self._jobs.append(accepted)
            self._changed.notify()
            return True

    def take(self, most: int, wait: float) -> list[Accepted]:
        """Return up to ``most`` jobs, at least one; [] when the line is closed and empty.

        Blocks for the first; when there is one, waits ``wait`` seconds for more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            until = time.monotonic() + wait
            while self._jobs and len(self._jobs) < most and not self._closed:
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    break
            return [self._jobs.popleft() for _ in range(min(most, len(self._jobs)))]

    def close(self) -> None:
        """Let nothing more in; what waits is still taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self, error: Callable[[], Exception]) -> None:
        """Let nothing more in, and answer all that waits with an error."""
        self.close()
        with self._changed:
            jobs, self._jobs = self._jobs, deque()
        for accepted in jobs:
            if accepted.future.set_running_or_notify_cancel():
                accepted.future.set_exception(error())
