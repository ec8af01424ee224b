"""``ranklens serve``: what it refuses, its ready line, signals while requests are under way."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.serving_fixtures import PATIENCE

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]
# The program, with a reranker that says when a request has reached it and waits for a line.
HELD = """
import sys
from ranklens.cli.main import main
from ranklens.cli.specs import RerankerSpec
from serving_fixtures import WordReranker

class Held(WordReranker):
    def rank(self, query, documents):
        if query == "held cat":
            print("held", flush=True)
            sys.stdin.readline()
        return super().rank(query, documents)

RerankerSpec.load = lambda spec: Held()
main()
"""
REQUEST = {"query": "held cat", "documents": ["a dog", "a cat"]}


@contextlib.contextmanager
def started(
    environment: dict[str, str],
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the program; give the process and its URL when it is ready."""
    tests = str(Path(__file__).parent)
    path = ":".join(filter(None, (tests, *environment.get("PYTHONPATH", "").split(":"))))
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, "serve", "--reranker", "identity", "--port", "0", "--json"],
        env={**environment, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        ready = json.loads(line)
        assert (ready["status"], ready["model"], ready["scale"]) == (
            "ready",
            "identity",
            "logistic-z",
        )
        yield process, ready["url"]
    finally:
        process.kill()
        process.communicate()


def test_a_signal_waits_for_the_answer_and_the_exit_is_a_good_one(
    program_environment: dict[str, str],
) -> None:
    environment = {**program_environment, "RANKLENS_TOKEN": "s3cret"}
    token = {"Authorization": "Bearer s3cret"}
    with (
        started(environment) as (process, url),
        ThreadPoolExecutor(1) as pool,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        assert url.startswith("http://127.0.0.1:")
        assert client.post("/v2/rerank", json=REQUEST).status_code == 401
        answer = pool.submit(client.post, "/v2/rerank", json=REQUEST, headers=token)
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGTERM)
        _refused(url)
        process.stdin.write("\n")
        process.stdin.flush()
        ranked = answer.result().json()["results"]
        assert [result["index"] for result in ranked] == [1, 0]
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (0, "")
        assert "POST /v2/rerank 401" in err
        assert "POST /v2/rerank 200" in err
        assert err.endswith("stopped; everything accepted was answered\n")
        assert "s3cret" not in err
        assert "Traceback" not in err


def test_a_second_signal_ends_it_at_once(program_environment: dict[str, str]) -> None:
    with started(program_environment) as (process, url), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, f"{url}/v2/rerank", json=REQUEST, timeout=PATIENCE)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGINT)
        _refused(url)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 7
        with pytest.raises(httpx.RemoteProtocolError):
            answer.result()


def _refused(url: str) -> None:
    """Wait until a server no longer listens: it has taken notice of the signal."""
    address = httpx.URL(url)
    assert address.port is not None
    with contextlib.suppress(ConnectionError):
        while True:
            socket.create_connection((address.host, address.port), timeout=PATIENCE).close()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--host", "0.0.0.0"], 2, "there is no token: give --token-file or $RANKLENS_TOKEN"),
        (["--host", "no host"], 2, "is no address of a machine"),
        (["--reranker", "nonsense"], 2, "unknown reranker 'nonsense'"),
        (["--reranker", "identity", "--profile", "icr"], 2, "--profile is for"),
        (["--profile", "nowhere"], 4, "nowhere"),
        (["--long-lists", "drop"], 2, "--long-lists is 'drop'"),
        (["--profile", "icr", "--documents", "kept"], 5, "block"),
        (["--max-waiting", "0"], 2, "--max-waiting must be at least 1"),
        (["--timeout", "0"], 2, "timeout must be more than 0 seconds"),
        (["--token-file", "nowhere"], 4, "nowhere"),
        (["--token-file", "empty"], 5, "there is no token in it"),
        (["--token-file", "two"], 2, "without blanks"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_is_loaded(
    call: Call, tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "two").write_text("two words\n")
    done = call("serve", "--port", "0", *arguments)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "loading" not in done.stderr


def test_a_port_in_use_is_said(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call("serve", "--reranker", "identity", "--port", port)
    assert done.returncode == 6
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in done.stderr


def test_a_model_that_is_not_there_ends_the_server(call: Call) -> None:
    done = call("serve", "--reranker", "attention:no-such-model", "--profile", "icr", "--port", "0")
    assert done.returncode == 4
    assert "no-such-model" in done.stderr
    assert "stopped" not in done.stderr


def test_without_the_extra_the_line_that_installs_it_is_given(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = call("serve")
    assert done.returncode == 3
    assert "pip install 'ranklens[server]'" in done.stderr
