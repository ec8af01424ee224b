"""What tests of the server share: a reranker that can be held, and a server over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import re
import threading
from collections.abc import Iterator, Sequence

import httpx

from ranklens.data.errors import InvalidInputError
from ranklens.data.records import Document, Query
from ranklens.rerank.base import Ranking, Reranker, Shortened, checked_request
from ranklens.rerank.serving.running import Server, bound, url_of
from ranklens.rerank.serving.service import WARM_UP, Service
from ranklens.rerank.serving.settings import Settings

PATIENCE = 20.0


class WordReranker(Reranker):
    """Scores a document by the query's words in it; a token is a word.

    While ``gate`` is closed every pass waits in ``rank``; ``entered`` has the queries that came
    so far. The queries "refuse" and "break" fail.
    """

    name = "words"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered: queue.Queue[str] = queue.Queue()

    def rank(self, query: str | Query, documents: Sequence[str | Document]) -> Ranking:
        text, records = checked_request(query, documents)
        if text != WARM_UP[0]:
            self.entered.put(text)
            assert self.gate.wait(PATIENCE)
        if text == "refuse":
            raise InvalidInputError("this one cannot be ranked")
        if text == "break":
            raise RuntimeError("secret of the machine")
        words = set(text.split())
        scores = [float(sum(w in words for w in record.text.split())) for record in records]
        return Ranking.from_scores(records, scores, [0] * len(records))

    def shortened(self, text: str, most: int | None = None) -> Shortened:
        words = list(re.finditer(r"\S+", text))
        if most is None or len(words) <= most:
            return Shortened(text, len(words), 0)
        return Shortened(text[: words[most - 1].end() if most else 0], most, len(words) - most)

    def next_query(self) -> str:
        """Wait for the next pass to begin, and return its query."""
        return self.entered.get(timeout=PATIENCE)


@contextlib.contextmanager
def served(service: Service) -> Iterator[str]:
    """Serve on a free port of this machine, as ``ranklens serve`` does, and give the URL."""
    with contextlib.closing(bound("127.0.0.1", 0)) as listening:
        server = Server(service)
        thread = threading.Thread(
            target=lambda: asyncio.run(server.serve(sockets=[listening])), name="server"
        )
        thread.start()
        try:
            yield url_of(listening)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


@contextlib.contextmanager
def word_server(reranker: WordReranker, settings: Settings | None = None) -> Iterator[httpx.Client]:
    """Give a client of a warm server over ``reranker``."""
    service = Service(lambda: reranker, settings, model="words")
    service.start()
    with served(service) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
        try:
            yield client
        finally:
            # The server waits for what it accepted.
            reranker.gate.set()
