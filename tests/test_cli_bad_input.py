"""Files that are broken, and collections that lack what a command needs: nothing is written."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def renamed(collection: Path, old: str, new: str, content: bytes) -> None:
    """Let the collection name another file, of this content, instead of one of its own."""
    toml = collection / "collection.toml"
    toml.write_text(toml.read_text().replace(f'"{old}"', f'"{new}"'))
    (collection / old).unlink()
    (collection / new).write_bytes(content)


PACKED = gzip.compress(
    b"".join(b'{"_id": "x%d", "text": "%d"}\n' % (n, n * n) for n in range(9999))
)


@pytest.mark.parametrize(
    ("old", "new", "content", "named"),
    [
        ("docs.jsonl", "docs.jsonl.gz", PACKED[: len(PACKED) // 2], "gz:{line}: damaged gzip"),
        ("docs.jsonl", "docs.jsonl.gz", b'{"_id": "d0", "text": ""}\n', "docs.jsonl.gz:1: damaged"),
        ("docs.jsonl", "d.tsv", b"d0\tbread\nd1\tcaf\xe9\n", "d.tsv:2: not UTF-8 (byte 7 of"),
        ("docs.jsonl", "d.trec", b"<DOC>\n<TEXT>x</TEXT>\n</DOC>\n", "d.trec:1: the document that"),
        ("docs.jsonl", "d.parquet", b"PAR1", "d.parquet: row 1: not a sound Parquet file"),
        ("docs.jsonl", "docs.csv", b"id,text\n", "docs.csv: the suffix '.csv' does not say"),
        ("queries.jsonl", "topics.md", b"# q1\n", "topics.md: the suffix '.md' does not say"),
        ("queries.jsonl", "topics", b"q1\tbread\n", "topics: a name without a suffix does not say"),
        ("queries.jsonl", "q.tsv", b"q1\ta\nq2\tb\nq1\tc\n", "q.tsv:3: query id 'q1' occurs twice"),
        ("queries.jsonl", "q.tsv", b"q1 bake bread\n", "q.tsv:1: expected id<TAB>text, got"),
        ("queries.jsonl", "q.jsonl", b"[" * 100_000, "q.jsonl:1: not JSON"),
        ("queries.jsonl", "q.jsonl", b'{"_id": ' + b"9" * 5000 + b"}", "q.jsonl:1: not JSON"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_with_its_line(
    call: Call, collection: Path, tmp_path: Path, old: str, new: str, content: bytes, named: str
) -> None:
    if new.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    renamed(collection, old, new, content)
    output = tmp_path / "x.run"
    done = call("retrieve", collection, "-o", output)
    assert done.returncode == 5
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"error: {collection}/")
    if "{line}" in named:
        line = int(message.split(":")[2])
        assert 1 < line < 9999
        named = named.format(line=line)
    assert named in message
    assert not output.exists()


def test_a_suffix_that_is_not_read_lists_those_that_are(call: Call, collection: Path) -> None:
    renamed(collection, "queries.jsonl", "queries.csv", b"q1,bake bread\n")
    done = call("retrieve", collection, "-o", "x.run")
    for suffix in (".jsonl", ".tsv", ".txt", ".trec", ".parquet"):
        assert suffix in done.stderr
    assert 'queries_format = "trec"' in done.stderr
    assert "JSON" not in done.stderr.replace("jsonl", ""), "not parsed as JSON"


@pytest.fixture
def unjudged(collection: Path) -> Path:
    """Make the collection one without judgements."""
    toml = collection / "collection.toml"
    toml.write_text(toml.read_text().replace('qrels = "qrels.txt"\n', ""))
    return collection


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--out", "out", "--candidates", "all"],
        ["heads", "detect", "--candidates", "all", "-o", "out"],
        ["heads", "learn", "--candidates", "all", "-o", "out"],
        ["calibrate", "--candidates", "all", "-o", "out"],
    ],
    ids=" ".join,
)
def test_what_needs_judgements_says_so_before_the_work(
    call: Call, unjudged: Path, decoder: str, command: list[str], tmp_path: Path
) -> None:
    kind = "--reranker" if command[0] == "run" else "--model"
    model = decoder if command[0] == "run" else decoder.partition(":")[2]
    done = call(*command, unjudged, kind, model)
    assert done.returncode == 5
    assert "collection 'tiny' has no judgements, which" in done.stderr
    assert "`ranklens retrieve` and `ranklens rerank` work without" in done.stderr
    assert "loading" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_evaluation_needs_judgements(call: Call, unjudged: Path, tmp_path: Path) -> None:
    done = call("evaluate", unjudged, unjudged / "all.run")
    assert done.returncode == 5
    assert "has no judgements, which evaluation needs" in done.stderr
    requests = tmp_path / "r.jsonl"
    requests.write_text(json.dumps({"query": {"qid": "1", "text": "a"}, "candidates": []}) + "\n")
    done = call("evaluate", requests, unjudged / "all.run")
    assert done.returncode == 5
    assert "collection 'r' has no judgements" in done.stderr


def test_what_needs_none_works_without_judgements(
    call: Call, unjudged: Path, decoder: str, tmp_path: Path
) -> None:
    found = tmp_path / "bm25.run"
    assert call("retrieve", unjudged, "-o", found).returncode == 0
    done = call("rerank", unjudged, found, "--reranker", decoder, "-o", tmp_path / "after.run")
    assert done.returncode == 0, done.stderr
    pairs = [
        {tuple(line.split()[0:3:2]) for line in file.read_text().splitlines()}
        for file in (found, tmp_path / "after.run")
    ]
    assert pairs[0] == pairs[1]
    assert {query for query, _ in pairs[0]} == {"q1", "q2", "q3", "q4"}
    built = call("cache", "build", unjudged, "--reranker", decoder, "--profile", "icr-block",
                 "--limit", "2", "-o", tmp_path / "kept")  # fmt: skip
    assert built.returncode == 0, built.stderr
    info = json.loads(call("data", "info", unjudged, "--json").stdout)
    assert (info["judgements"], info["judged_queries"], info["queries"]) == ({}, 0, 4)


def test_a_beir_folder_without_qrels_has_no_judgements(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "title": "", "text": "bread"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "bread"}\n')
    assert call("retrieve", folder, "-o", folder / "x.run").returncode == 0
    done = call("evaluate", folder, folder / "x.run")
    assert done.returncode == 5
    assert "collection 'beir' has no judgements" in done.stderr


def test_judged_documents_that_are_not_there_are_a_warning(
    call: Call, collection: Path, decoder: str, tmp_path: Path
) -> None:
    with (collection / "qrels.txt").open("a") as stream:
        stream.write("q1 0 gone 1\nq2 0 away 0\nq2 0 gone 0\n")
    said = (
        "2 of 14 judged documents are not in the collection (first: 'away'); 1 of them count as "
        "relevant, and no run can find them"
    )
    done = call("evaluate", collection, collection / "all.run", "--json")
    assert done.returncode == 0
    assert said in json.loads(done.stdout)["warnings"]
    done = call("run", collection, "--candidates", "all", "--reranker", decoder, "--depth", "3",
                "--out", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0
    assert f"warning: {said}\n" in done.stderr


def test_a_large_corpus_is_not_read_for_an_evaluation(
    call: Call, collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (collection / "qrels.txt").open("a") as stream:
        stream.write("q1 0 gone 1\n")
    size = (collection / "docs.jsonl").stat().st_size
    for largest, warnings in ((size, 1), (size - 1, 0)):
        monkeypatch.setattr("ranklens.data.coverage._LARGEST", largest)
        done = call("evaluate", collection, collection / "all.run", "--json")
        assert len(json.loads(done.stdout)["warnings"]) == warnings


def test_a_query_that_no_run_can_carry_is_refused_before_the_work(
    call: Call, collection: Path, tmp_path: Path
) -> None:
    (collection / "queries.jsonl").write_text('{"_id": "#1", "text": "bake bread"}\n')
    (collection / "qrels.txt").write_text("#1 0 d0 1\nq 0 d0 1\n")
    toml = collection / "collection.toml"
    toml.write_text(toml.read_text().replace('qrels = "qrels.txt"\n', ""))
    done = call("retrieve", collection, "-o", "out.run")
    assert done.returncode == 5
    assert "the query id '#1' starts with '#'" in done.stderr
    assert "indexing" not in done.stderr
    assert not (tmp_path / "out.run").exists()
