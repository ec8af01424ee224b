"""The server over real sockets: token, limits, overload, metrics, clients who leave, the end."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.serving_fixtures import PATIENCE, WordReranker, served, word_server

from ranklens.rerank.serving import reception
from ranklens.rerank.serving.about import page
from ranklens.rerank.serving.running import is_loopback
from ranklens.rerank.serving.service import Service
from ranklens.rerank.serving.settings import Settings

TEXTS = ["a cat", "a dog and a cat and a cat", "nothing"]
BODY = {"model": "words", "query": "cat", "documents": TEXTS}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    settings = Settings(max_documents=5, max_body_bytes=2000, max_held_bytes=4000)
    with word_server(WordReranker(), settings) as made:
        yield made


def counted(client: httpx.Client) -> dict[tuple[str, ...], float]:
    text = client.get("/metrics").text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_request_is_answered_and_counted(client: httpx.Client) -> None:
    before = counted(client)
    answer = client.post("/v2/rerank", json=BODY)
    after = counted(client)
    assert answer.status_code == 200
    assert [result["index"] for result in answer.json()["results"]] == [1, 0, 2]
    more = {
        ("ranklens_requests_total", "/v2/rerank", "200"): 1,
        ("ranklens_request_seconds_count", "/v2/rerank"): 1,
        ("ranklens_pass_requests_sum",): 1,
        ("ranklens_documents_total",): 3,
        ("ranklens_tokens_total",): 12,
        ("ranklens_tokens_cut_total",): 0,
    }
    assert {name: after[name] - before.get(name, 0) for name in more} == more
    assert after[("ranklens_waiting",)] == after[("ranklens_held_bytes",)] == 0


def test_metrics_of_unknown_paths_share_a_name(client: httpx.Client) -> None:
    assert client.get("/any/thing").status_code == 404
    after = counted(client)
    assert after[("ranklens_requests_total", "other", "404")] >= 1
    assert not any("/any/thing" in name for name in after)


def test_the_server_says_what_it_is(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert (client.head("/health").status_code, client.head("/health").content) == (200, b"")
    info = client.get("/info").json()
    assert info["model_id"] == "words"
    assert info["max_client_batch_size"] == 5
    assert info["scale"] == "logistic-z"
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v2/rerank", "/rerank", "/health", "/info", "/metrics"} <= paths.keys()


def test_the_page_of_paths_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    answer = client.get("/docs")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "POST /v2/rerank" in answer.text
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    assert "<script" not in answer.text


def test_the_page_escapes_what_it_shows() -> None:
    text = page(
        {
            "info": {"title": "<b>", "version": "1"},
            "paths": {"/<i>": {"get": {"summary": "<u>", "responses": {"200": "<s>"}}}},
        }
    )
    assert not any(mark in text for mark in ("<b>", "<i>", "<u>", "<s>"))


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-1:2", True), ("x" * 129, False), ("a b", False), ("<b>", False), ("", False)],
)
def test_a_sane_request_id_comes_back(client: httpx.Client, sent: str, kept: bool) -> None:
    got = client.get("/health", headers={"X-Request-Id": sent}).headers["x-request-id"]
    assert (got == sent) == kept
    assert len(got) == 32 or kept


def test_an_error_has_the_request_id_too(client: httpx.Client) -> None:
    answer = client.post("/v2/rerank", json={}, headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (422, "mine")


def test_an_unforeseen_error_is_told_without_its_inside(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.post("/v2/rerank", json={**BODY, "query": "break"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert "secret of the machine" in caplog.text
    assert client.post("/v2/rerank", json=BODY).status_code == 200


def test_the_log_has_no_text_of_documents(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ranklens"):
        client.post("/v2/rerank", json={**BODY, "documents": ["hush", "secret"]})
        client.get("/evil%0Aline")
    assert "POST /v2/rerank 200" in caplog.text
    assert "hush" not in caplog.text
    assert "evil\\nline" in caplog.text


def until(condition: Callable[[], bool]) -> None:
    """Ask the server again and again."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end


# Sizes.


def test_more_documents_than_allowed_are_refused(client: httpx.Client) -> None:
    answer = client.post("/v2/rerank", json={**BODY, "documents": ["a"] * 6})
    assert answer.status_code == 413
    assert "6" in answer.json()["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused_however_it_comes(
    client: httpx.Client, chunked: bool
) -> None:
    rejected = ("ranklens_rejected_total", "too_large")
    before = counted(client).get(rejected, 0)
    body = json.dumps({**BODY, "documents": ["x" * 3000]}).encode()
    content = (body[i : i + 100] for i in range(0, len(body), 100)) if chunked else body
    answer = client.post(
        "/v2/rerank", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    assert "2000 bytes" in answer.json()["message"]
    assert counted(client)[rejected] == before + 1


def test_a_body_far_beyond_the_limit_is_not_read_to_its_end(client: httpx.Client) -> None:
    # A socket of our own: it goes on sending after the answer, which most clients do not.
    with socket.create_connection(_address(client), timeout=PATIENCE) as raw:
        head = "POST /v2/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
        raw.sendall(head.encode())
        sent = 0
        try:
            while sent < 50_000_000:
                sent += raw.send(b"x" * 65536)
        except OSError:
            pass
    assert sent < 50_000_000
    assert counted(client)[("ranklens_held_bytes",)] == 0


def test_a_content_length_that_lies_is_no_crash(client: httpx.Client) -> None:
    with socket.create_connection(_address(client), timeout=PATIENCE) as raw:
        raw.sendall(b"POST /v2/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{}")
    assert client.post("/v2/rerank", json=BODY).status_code == 200


def test_a_compressed_body_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v2/rerank", content=b"x", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415


def _address(client: httpx.Client) -> tuple[str, int]:
    assert client.base_url.port is not None
    return client.base_url.host, client.base_url.port


# The token.


def test_all_but_health_wants_the_token() -> None:
    with word_server(WordReranker(), Settings(token="s3cret")) as client:
        assert client.get("/health").status_code == 200
        for path in ("/info", "/metrics", "/docs", "/openapi.json", "/nowhere"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        for given in ("Bearer wrong", "Basic s3cret", "s3cret", "Bearer", "Bearer s3cret2", "\xe9"):
            headers = {b"Authorization": given.encode("latin-1")}
            answer = client.post("/v2/rerank", json=BODY, headers=headers)
            assert answer.status_code == 401
            assert "s3cret" not in answer.text
        client.headers["Authorization"] = "Bearer s3cret"
        assert client.post("/v2/rerank", json=BODY).status_code == 200
        assert counted(client)[("ranklens_rejected_total", "unauthorised")] == 11


def test_who_asks_before_sending_a_body_is_answered_at_once() -> None:
    head = (
        b"POST /v2/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 2\r\nExpect: 100-continue\r\n"
    )
    with word_server(WordReranker(), Settings(token="s3cret")) as client:
        with socket.create_connection(_address(client), timeout=PATIENCE) as raw:
            raw.sendall(head + b"\r\n")
            assert raw.recv(1000).startswith(b"HTTP/1.1 401 ")
        with socket.create_connection(_address(client), timeout=PATIENCE) as raw:
            raw.sendall(head + b"Authorization: Bearer s3cret\r\n\r\n")
            assert raw.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            raw.sendall(b"{}")
            assert raw.recv(1000).startswith(b"HTTP/1.1 422 ")


# A model that is busy, slow or not there.


def test_a_server_that_is_full_says_when_to_come_back() -> None:
    words = WordReranker()
    settings = Settings(max_waiting=2, max_batch=1)
    with word_server(words, settings) as client, ThreadPoolExecutor(8) as pool:
        words.gate.clear()
        first = pool.submit(client.post, "/v2/rerank", json=BODY)
        words.next_query()
        others = [pool.submit(client.post, "/v2/rerank", json=BODY) for _ in range(5)]
        until(lambda: sum(one.done() for one in others) == 3)
        told = [one.result() for one in others if one.done()]
        assert counted(client)[("ranklens_waiting",)] == 2
        words.gate.set()
        answers = [one.result() for one in (first, *others)]
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 3
        for answer in told:
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert counted(client)[("ranklens_rejected_total", "overload")] == 3


def test_bodies_under_way_are_bounded_together() -> None:
    words = WordReranker()
    body = {**BODY, "documents": ["x" * 700]}
    settings = Settings(max_batch=1, max_body_bytes=1000, max_held_bytes=1200)
    with word_server(words, settings) as client, ThreadPoolExecutor(1) as pool:
        words.gate.clear()
        first = pool.submit(client.post, "/v2/rerank", json=body)
        words.next_query()
        assert client.post("/v2/rerank", json=body).status_code == 429
        words.gate.set()
        assert first.result().status_code == 200
        assert client.post("/v2/rerank", json=body).status_code == 200


def test_health_is_503_until_the_model_is_warm() -> None:
    loading = threading.Event()

    def load() -> WordReranker:
        assert loading.wait(PATIENCE)
        return WordReranker()

    service = Service(load, model="words")
    with served(service) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
        answer = client.get("/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "loading"})
        answer = client.post("/v2/rerank", json=BODY)
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert client.get("/info").json()["model_id"] == "words"
        loading.set()
        service.start()
        assert client.get("/health").status_code == 200
        assert client.post("/v2/rerank", json=BODY).status_code == 200


def test_a_client_who_leaves_frees_the_place() -> None:
    words = WordReranker()
    with word_server(words, Settings(max_batch=1)) as client, ThreadPoolExecutor(1) as pool:
        words.gate.clear()
        first = pool.submit(client.post, "/v2/rerank", json=BODY)
        words.next_query()
        with socket.create_connection(_address(client), timeout=PATIENCE) as raw:
            body = json.dumps({**BODY, "query": "leaves"}).encode()
            head = f"POST /v2/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            until(lambda: counted(client)[("ranklens_waiting",)] == 1)
        until(lambda: counted(client)[("ranklens_gone_total",)] == 1)
        words.gate.set()
        assert first.result().status_code == 200
        assert client.post("/v2/rerank", json=BODY).status_code == 200
        assert counted(client)[("ranklens_requests_total", "/v2/rerank", "499")] == 1
    assert [words.next_query(), words.entered.qsize()] == ["cat", 0]


def test_stopping_answers_what_was_accepted() -> None:
    words = WordReranker()
    service = Service(lambda: words, Settings(max_batch=1), model="words")
    service.start()
    with contextlib.ExitStack() as both, ThreadPoolExecutor(3) as pool:
        with served(service) as url:
            client = both.enter_context(httpx.Client(base_url=url, timeout=PATIENCE))
            words.gate.clear()
            accepted = [pool.submit(client.post, "/v2/rerank", json=BODY) for _ in range(3)]
            words.next_query()
            until(lambda: counted(client)[("ranklens_waiting",)] == 2)
            service.stop()
            late = client.post("/v2/rerank", json=BODY)
            assert (late.status_code, "retry-after" in late.headers) == (503, True)
            assert client.get("/health").json() == {"status": "stopping"}
            threading.Timer(0.05, words.gate.set).start()
        assert [one.result().status_code for one in accepted] == [200] * 3
    assert service.answered_all


def test_what_the_time_of_grace_cut_off_is_known() -> None:
    words = WordReranker()
    service = Service(lambda: words, Settings(shutdown_grace=0.1), model="words")
    service.start()
    with ThreadPoolExecutor(1) as pool:
        with served(service) as url:
            words.gate.clear()
            cut_off = pool.submit(httpx.post, f"{url}/v2/rerank", json=BODY, timeout=PATIENCE)
            words.next_query()
        words.gate.set()
        answer = cut_off.result()
        assert (answer.status_code, answer.json()["message"]) == (503, "the server has stopped")
    assert not service.answered_all


def test_a_body_that_never_comes_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reception, "_LOOK", 0.01)
    monkeypatch.setattr(reception, "_PATIENCE", 0.01)
    service = Service(WordReranker, model="words")
    service.start()
    with contextlib.ExitStack() as open_still:
        with served(service) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
            raw = open_still.enter_context(
                socket.create_connection(_address(client), timeout=PATIENCE)
            )
            raw.sendall(b"POST /v2/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            until(lambda: counted(client)[("ranklens_held_bytes",)] == 1)
        # Its patience is less than the time of grace.
        assert b" 503 " in raw.recv(1000)
    assert service.answered_all


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_addresses_that_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
