"""Servers on real sockets for tests of the dialects, with rerankers whose answers are known..

What is known of each is in its docstring. Fixtures that start them are in dialect_fixtures.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from tests.tiny_decoder import SIZES, byte_tokenizer

from ranklens.data.device import Placement
from ranklens.data.errors import NumericalError
from ranklens.data.records import Document, Query
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.base import Ranking, Reranker, Shortened, checked_request
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.profile import Profile
from ranklens.rerank.serving.app import create_app
from ranklens.rerank.serving.service import OverloadedError, Service
from ranklens.rerank.serving.settings import Settings

LONGEST = 50
"""Words of a document that `WordsReranker` reads."""


class WordsReranker(Reranker):
    """A document's score is the number of the query's words in it; a word is a token.

    It reads 50 words of a document. The query ``too much`` finds it overloaded, ``not a number``
    makes it fail.
    """

    name = "words"

    def rank(self, query: str | Query, documents: Sequence[str | Document]) -> Ranking:
        text, records = checked_request(query, documents)
        if text == "too much":
            raise OverloadedError("1 request waits already", retry_after=7)
        if text == "not a number":
            raise NumericalError("NaN in layer 3 of /home/somebody/model")
        wanted = text.lower().split()
        scores, cut = [], []
        for record in records:
            words = record.text.lower().split()
            scores.append(float(sum(words[:LONGEST].count(word) for word in wanted)))
            cut.append(max(0, len(words) - LONGEST))
        return Ranking.from_scores(records, scores, cut)

    def shortened(self, text: str, most: int | None = None) -> Shortened:
        words = text.split(" ")
        kept = words if most is None else words[:most]
        return Shortened(" ".join(kept), len(kept), len(words) - len(kept))


def tiny_reranker(profile: Profile) -> AttentionReranker:
    """Return a reranker with a random decoder of two layers; every byte is a token or more."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = byte_tokenizer(["Please find information relevant to the paragraphs."], 300)
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), max_position_embeddings=2048, **SIZES
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    engine = AttentionEngine(model, tokenizer, Placement("cpu", "float32", "a test"))
    return AttentionReranker(engine, profile)


@contextlib.contextmanager
def served(
    load: Callable[[], Reranker], settings: Settings | None = None, model: str = "words"
) -> Iterator[str]:
    """Serve a reranker on a free port of the loopback and yield its URL; the model is ready."""
    service = Service(load, settings, model=model)
    service.start()
    config = uvicorn.Config(
        create_app(service), log_config=None, access_log=False, ws="none", lifespan="on"
    )
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        # Connections are queued from here on: nobody has to wait until the server's loop runs.
        listening.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
