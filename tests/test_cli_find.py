"""``ranklens find``: sentences of a text, their offsets, and files that cannot be read."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.stream import find_passages

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]
# Longer than the tiny model's context, with characters of several bytes.
TEXT = "".join(
    f"Sentence {n} is about bread 🍞 und Öfen.\r\n" if n % 3 else f"Number {n} is sorted. "
    for n in range(160)
)


@pytest.fixture
def find(call: Call, decoder: str) -> Call:
    """Return a function that searches with a tiny model."""
    return lambda *more: call("find", "--model", decoder.removeprefix("attention:"), *more)


def test_offsets_cut_the_sentences_out_of_the_file(
    find: Call, decoder: str, tmp_path: Path
) -> None:
    (tmp_path / "long.txt").write_bytes(TEXT.encode())
    done = find("bake bread", "long.txt", "--json", "-k", 4)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    engine = AttentionEngine.from_pretrained(decoder.removeprefix("attention:"))
    assert len(engine.tokenizer(TEXT).input_ids) > engine.context
    expected = find_passages(engine, "bake bread", TEXT)
    assert value["kept"] == len(expected) > 4
    assert [(s["start"], s["end"], s["score"]) for s in value["sentences"]] == expected[:4]
    for sentence in value["sentences"]:
        assert sentence["text"] == TEXT[sentence["start"] : sentence["end"]]
    assert f"reading: {len(TEXT)} characters" in done.stderr


def test_a_gzip_file_and_standard_input_are_read_alike(
    find: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gzip.open(tmp_path / "long.txt.gz", "wb") as stream:
        stream.write(TEXT.encode())
    packed = find("bake bread", "long.txt.gz")
    assert packed.returncode == 0, packed.stderr
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    piped = find("bake bread", "-")
    assert piped.stdout == packed.stdout
    assert len(packed.stdout.splitlines()) == 10


def test_a_hostile_text_sends_nothing_to_the_terminal(find: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("red \x1b[2J \x9b2J \u202e txt. And more.")
    done = find("red", "bad.txt")
    assert done.returncode == 0, done.stderr
    assert r"red \x1b[2J \x9b2J \u202e txt." in done.stdout
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.stdout)


@pytest.mark.parametrize(
    ("content", "query", "code", "said"),
    [
        (None, "bread", 4, "no such file: text.txt"),
        (b" \n\t", "bread", 5, "text.txt: there is no text in it"),
        (b"good line\nb\xffd line", "bread", 5, "text.txt:2: not UTF-8 (byte 12 of the file)"),
        (b"bread", " ", 5, "the query is empty"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    find: Call, tmp_path: Path, content: bytes | None, query: str, code: int, said: str
) -> None:
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    done = find(query, "text.txt")
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_a_folder_is_refused_and_a_pipe_is_read(find: Call, tmp_path: Path) -> None:
    done = find("bread", tmp_path)
    assert done.returncode == 5
    assert "is a folder; give the name of a file" in done.stderr
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("Bread is baked. Numbers are not.",))
    writer.start()
    done = find("bread", pipe)
    writer.join()
    assert done.returncode == 0, done.stderr
    assert "Bread is baked." in done.stdout


def test_a_damaged_gzip_file_is_refused(find: Call, tmp_path: Path) -> None:
    whole = gzip.compress(TEXT.encode())
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    done = find("bread", "cut.gz")
    assert done.returncode == 5
    assert "cut.gz: damaged gzip file" in done.stderr
