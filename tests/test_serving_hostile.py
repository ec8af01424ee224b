"""Hostile bodies and documents: no 5xx, no traceback, and no say in how others are ranked."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import pytest
from tests.dialect_servers import WordsReranker, served, tiny_reranker
from tests.hostile_bodies import MOST_BYTES, Hostile, bodies
from tests.hostile_texts import TEXTS

from ranklens.data.records import Document
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.profile_file import load_profile
from ranklens.rerank.serving.settings import Settings

BODIES = bodies()
AMONG = ["Rome is in Italy.", "the capital of France is Paris", "Berlin has a zoo, and a wall"]
QUERY = "capital of France"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    settings = Settings(max_body_bytes=MOST_BYTES)
    with served(WordsReranker, settings) as url, httpx.Client(base_url=url) as http:
        yield http


def test_there_are_200() -> None:
    assert len({one.name for one in BODIES}) == len(BODIES)
    assert len(BODIES) + len(TEXTS) >= 200


@pytest.mark.parametrize("hostile", BODIES, ids=[one.name for one in BODIES])
def test_bodies(client: httpx.Client, hostile: Hostile) -> None:
    headers = {name.encode(): value.encode("latin-1") for name, value in hostile.headers.items()}
    answer = client.request(
        hostile.method, hostile.path, content=hostile.body, headers=list(headers.items())
    )
    assert answer.status_code == hostile.status, answer.text[:500]
    assert answer.headers["Content-Type"] == "application/json"
    assert "X-Injected" not in answer.headers
    for trace in ("Traceback", 'File "', ".py", "site-packages"):
        assert trace not in answer.text
    if answer.status_code != 200:
        # Not a word of a megabyte comes back, whatever was in it.
        assert len(answer.content) < 4000
        error = answer.json()
        assert error.get("message") or error["error_type"]
    else:
        assert [found["index"] for found in answer.json()["results"]] in ([1, 0], [0, 1])
        assert len(answer.headers.get("X-Ranklens-Ignored-Fields", "")) < 500


@pytest.fixture(scope="module")
def raw(client: httpx.Client) -> Callable[[bytes], bytes]:
    """Return a function that sends bytes and returns all that comes back."""
    where = urlsplit(str(client.base_url))

    def send(sent: bytes) -> bytes:
        with socket.create_connection((where.hostname or "", where.port or 0), 10) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while part := connection.recv(65536):
                received += part
        return received

    return send


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"X-Request-Id: a\r\n X-Injected: 1\r\nContent-Length: 2", (400, 422)),
        (b"X-Request-Id: a\rX-Injected: 1\r\nContent-Length: 2", (400, 422)),
        (b"X-Request-Id: a\x00b\r\nContent-Length: 2", (400, 422)),
        (b"Content-Length: 2\r\nContent-Length: 3", (400,)),
        (b"Content-Length: -1", (400,)),
        (b"Content-Length: 99999999999999999999", (400, 413)),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 2", (400,)),
        (b"Transfer-Encoding: chunked, x", (400,)),
    ],
)
def test_heads_that_no_client_library_sends(
    raw: Callable[[bytes], bytes], head: bytes, status: tuple[int, ...]
) -> None:
    request = b"POST /v1/rerank HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    received = raw(request + b"Connection: close\r\n" + head + b"\r\n\r\n{}")
    answered, _, body = received.partition(b"\r\n\r\n")
    assert not received or int(answered.split()[1]) in status, received
    assert b"x-injected" not in answered.lower()
    assert b"Traceback" not in body


def test_afterwards_it_ranks_as_before(client: httpx.Client) -> None:
    answer = client.post("/v1/rerank", json={"query": QUERY, "documents": AMONG})
    assert [found["index"] for found in answer.json()["results"]] == [1, 0, 2]


def scores(client: httpx.Client, hostile: str) -> list[float]:
    """Return the scores of all documents but the hostile one, which stands among them."""
    texts = [AMONG[0], hostile, *AMONG[1:]]
    # Escaped, so that halves of surrogate pairs can be sent.
    body = json.dumps({"query": QUERY, "texts": texts, "raw_scores": True, "return_text": True})
    answer = client.post(
        "/rerank", content=body.encode(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 200, answer.text[:500]
    ranks = answer.json()
    assert sorted(rank["index"] for rank in ranks) == list(range(len(texts)))
    for rank in ranks:
        whole = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in texts[rank["index"]])
        assert rank["text"] == whole
    assert [rank["score"] for rank in ranks] == sorted((r["score"] for r in ranks), reverse=True)
    by_index = {rank["index"]: rank["score"] for rank in ranks}
    return [by_index[index] for index in range(len(texts)) if index != 1]


@pytest.mark.parametrize("name", TEXTS)
def test_documents_leave_other_scores_alone(client: httpx.Client, name: str) -> None:
    assert scores(client, TEXTS[name]) == [2.0 - 2.0, 4.0 - 1.0, 0.0]


@pytest.fixture(scope="module")
def reranker() -> AttentionReranker:
    """Return a reranker under which a document's score is provably its own.

    Documents in blocks do not see each other. What reads them does see all of them, and so do
    softmax and every layer above the first: the first layer's logits depend on nothing but the
    document, the query and their positions.
    """
    profile = load_profile("icr-block")
    signal = replace(profile.signal, layers=(0, 0), values="logits")
    return tiny_reranker(replace(profile, signal=signal))


@pytest.fixture(scope="module")
def attentive(reranker: AttentionReranker) -> Iterator[httpx.Client]:
    with served(lambda: reranker, model="tiny") as url, httpx.Client(base_url=url) as http:
        yield http


@pytest.fixture(scope="module")
def harmless(
    reranker: AttentionReranker, attentive: httpx.Client
) -> Callable[[str], tuple[str, list[float]]]:
    """Return a function: a text of as many tokens as the hostile one, and scores beside it."""
    known: dict[str, list[float]] = {}

    def length(text: str) -> int:
        start, end = reranker.layout(QUERY, [Document("0", text)]).spans[0]
        return end - start

    nothing = length("")

    def found(hostile: str) -> tuple[str, list[float]]:
        text = "z" * (length(hostile) - nothing)
        if text not in known:
            known[text] = scores(attentive, text)
        return text, known[text]

    return found


@pytest.mark.parametrize("name", TEXTS)
def test_a_models_scores_are_those_beside_a_harmless_document(
    reranker: AttentionReranker,
    attentive: httpx.Client,
    harmless: Callable[[str], tuple[str, list[float]]],
    name: str,
) -> None:
    text, expected = harmless(TEXTS[name])
    found = scores(attentive, TEXTS[name])
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert len(set(found)) == len(found)
    # Whatever the layers: all else that the model reads is the same, token for token.
    texts = [AMONG[0], TEXTS[name], *AMONG[1:]]
    assert around(reranker, texts) == around(reranker, [AMONG[0], text, *AMONG[1:]])


def around(reranker: AttentionReranker, texts: list[str]) -> tuple[object, ...]:
    """Return what a prompt holds around its second document; blocks have an order of their own."""
    layout = reranker.layout(QUERY, [Document(str(at), text) for at, text in enumerate(texts)])
    start, _ = layout.spans[1]
    others = sorted(layout.shared[a:b] for a, b in layout.blocks if not a <= start < b)
    assert len(others) == len(texts) - 1
    opening = layout.shared[: layout.blocks[0][0]]
    return opening, others, layout.tails, layout.tail_start, len(layout.shared)


def test_the_instrument_sees_differences(attentive: httpx.Client) -> None:
    """Another length moves what reads the documents, and with it every score."""
    assert scores(attentive, "z") != pytest.approx(scores(attentive, "z" * 500), rel=1e-5)
