"""``ranklens explain``: JSON with offsets, text that cannot drive a terminal, clear refusals."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ranklens.cli.escape import printable

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]
HOSTILE = "red \x1b[31m\x9b2J\x07 \u202etxt\u2066 \x1b]0;title\x07 fox\r\n\x00 \ud800 🙂 end"


@pytest.fixture
def explain(call: Call, decoder: str) -> Call:
    """Return a function that explains with a tiny model."""
    return lambda *more: call("explain", "--reranker", decoder, *more)


def test_json_has_offsets_that_cut_out_the_text(explain: Call) -> None:
    documents = ["Paris is the capital of 東京 🙂.", "Berlin is in Germany.", HOSTILE]
    done = explain("capital of France", *documents, "--json", "--draws", 3)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)
    value = json.loads(done.stdout)
    assert [one["rank"] for one in value["documents"]] == [1, 2, 3]
    for one in value["documents"]:
        text = documents[one["index"]]
        for part in (*one["tokens"], *one["spans"]):
            if part["field"]:
                assert part["text"] == text[part["start"] : part["end"]]
        total = sum(token["contribution"] for token in one["tokens"]) + one["frame"]
        assert one["adds_up"]
        assert total == pytest.approx(one["score"], abs=1e-9)
        if one["spans"]:
            assert len(one["faithfulness"]["random_drops"]) == 3


def test_a_hostile_document_sends_nothing_to_the_terminal(explain: Call) -> None:
    done = explain("red \x1b[2J", HOSTILE, "other", "--draws", 0)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2066\ud800]", done.stdout)
    assert r"red \x1b[31m\x9b2J\x07 \u202etxt" in done.stdout
    assert "🙂 end" in done.stdout
    assert "erased" not in done.stdout


def test_at_a_terminal_only_our_colours_are_sent(
    explain: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True)
    for name, value in (("TERM", "xterm-256color"), ("COLORTERM", "truecolor")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    done = explain("red", HOSTILE, "red fox", "--draws", 0)
    assert done.returncode == 0, done.stderr
    assert "\x1b[30;48;2;255;" in done.stdout
    sent = re.findall(r"\x1b[^m]*m", done.stdout)
    assert all(re.fullmatch(r"\x1b\[(0|30;48;2;255;\d+;\d+)m", code) for code in sent)
    assert not re.search(r"[\x00-\x09\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202e]", done.stdout)


def test_documents_of_a_collection(explain: Call, collection: Path) -> None:
    given = ["--collection", collection, "--query-id", "q2", "--candidates", "all", "--depth", 4]
    done = explain(*given, "--draws", 0, "--show", 2, "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["query"] == {"id": "q2", "text": "sort numbers"}
    assert (value["candidates"], len(value["documents"])) == (4, 2)
    assert "loading" in explain(*given, "--draws", 0).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give a QUERY and at least one DOCUMENT"),
        (["query"], 2, "give a QUERY and at least one DOCUMENT"),
        (["query", "document", "--query-id", "q1"], 2, "belong to --collection"),
        (["query", "--collection", "C"], 2, "leave QUERY out"),
        (["--collection", "C"], 2, "needs --query-id"),
        (["--collection", "C", "--query-id", "q9"], 5, "has no query 'q9' (it has 'q1', …)"),
        ([" ", "document"], 5, "the query is empty"),
        (["query", "document", "--profile", "irc"], 4, "did you mean 'icr'?"),
    ],
)
def test_calls_that_make_no_sense(
    explain: Call, collection: Path, arguments: Sequence[str], code: int, message: str
) -> None:
    done = explain(*[collection if part == "C" else part for part in arguments])
    assert done.returncode == code
    assert message in done.stderr


def test_printable() -> None:
    assert printable("a\tb\nc é 東 🙂") == "a b c é 東 🙂"
    assert printable("\x1b\x7f\x9b\u200b\u2028\ufeff\ud800") == (
        r"\x1b\x7f\x9b\u200b\u2028\ufeff\ud800"
    )
