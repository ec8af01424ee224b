"""``ranklens report``: one file out of run folders and run files."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.load import load_collection
from ranklens.data.runs import read_run
from ranklens.eval.measures import default_measures, evaluate

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., subprocess.CompletedProcess[str]]


def content(page: Path) -> dict[str, Any]:
    """Return the JSON value in a report."""
    text = page.read_text(encoding="utf-8")
    found = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert found is not None
    value = json.loads(found[1])
    assert isinstance(value, dict)
    return value


def test_a_run_folder_becomes_one_file(
    call: Call, collection: Path, decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = call("run", collection, "--reranker", decoder, "--depth", 3, "--out", "runs/mine")
    assert made.returncode == 0, made.stderr
    base = ("report", "runs/mine", "--collection", collection, "--reranker", decoder)
    done = call(*base, "-o", "out/report.html", "--orders", 2, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    page = tmp_path / "out" / "report.html"
    value = content(page)
    assert said == {
        "status": "ok",
        "file": "out/report.html",
        "bytes": page.stat().st_size,
        "runs": ["bm25", "mine"],
        "queries": 4,
        "documents": len(value["documents"]),
        "coloured_queries": 4,
        "warnings": value["warnings"],
    }
    assert not [text for text in said["warnings"] if "scores of" in text], "scores are the run's"
    assert str(tmp_path) not in page.read_text()
    assert sorted(value["attention"]["documents"]) == ["q1", "q2", "q3", "q4"]
    assert (value["attention"]["run"], value["attention"]["profile"]) == ("mine", "icr")
    assert (value["heads"]["layers"], value["heads"]["heads"]) == (2, 4)
    assert value["bias"]["orders"] == 2
    loaded = load_collection(str(collection))
    run = read_run(tmp_path / "runs" / "mine" / "reranked.run")
    expected = evaluate(loaded.qrels, run, default_measures())
    values = value["runs"][1]["values"]
    assert {name: one["value"] for name, one in values.items()} == {
        name: round(result.value, 4) for name, result in expected.measures.items()
    }
    environment = dict(value["environment"])
    assert environment["mine: model"] == decoder.rpartition("/")[2]
    assert environment["attention read: dtype"] == "float32"

    # The same again is the same file; with fewer queries coloured it is told.
    before = page.read_bytes()
    call(*base, "-o", "out/report.html", "--orders", 2, "--json")
    assert page.read_bytes() == before
    done = call(*base, "--attention", 1)
    assert done.returncode == 0
    assert "4 queries (1 with tokens coloured)" in done.stderr
    assert list(content(tmp_path / "report.html")["attention"]["documents"]) == ["q1"]
    assert content(tmp_path / "report.html")["bias"]["orders"] == 0

    # Another method has other scores.
    done = call(*base, "--profile", "icr-qa", "--attention", 1, "--json")
    assert any("scores of 1 of 1" in text for text in json.loads(done.stdout)["warnings"])

    # Where the model is not: the manifest knows its folder's name only.
    monkeypatch.chdir(collection)
    bare = ("report", tmp_path / "runs" / "mine", "--collection", ".")
    done = call(*bare, "--json")
    assert done.returncode == 0, done.stderr
    assert any("no tokens are coloured" in text for text in json.loads(done.stdout)["warnings"])
    value = content(collection / "report.html")
    assert (value["attention"], value["bias"]["orders"], value["bias"]["run"]) == (None, 0, "mine")
    assert call(*bare, "--attention", 1).returncode == 4


def test_an_interruption_leaves_no_file(
    call: Call, collection: Path, decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ranklens.cli.html_report.reading.read_attention", interrupted)
    run = collection / "all.run"
    done = call("report", run, "--collection", collection, "--reranker", decoder, "-o", "x/r.html")
    assert done.returncode == 7
    assert "interrupted" in done.stderr
    assert list((tmp_path / "x").iterdir()) == []


def test_run_files_are_compared_with_the_first(
    call: Call, collection: Path, tmp_path: Path
) -> None:
    first = collection / "all.run"
    lines = first.read_text().splitlines()
    second = tmp_path / "turned.run"
    second.write_text(
        "".join(
            f"{query} Q0 {doc} 1 {-float(score)} turned\n"
            for query, _, doc, _, score, *_ in map(str.split, lines)
        )
    )
    labels = tmp_path / "judge.qrels"
    labels.write_text((collection / "qrels.txt").read_text())
    done = call(
        "report", first, second, "--collection", collection, "--labels", labels, "-m", "RR@10",
        "-m", "nDCG@5", "--depth", 2, "--text", 5, "--queries", 3, "--baseline", "turned",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "wrote report.html" in done.stderr
    assert "first 3 of 4 queries are shown" in done.stderr
    value = content(tmp_path / "report.html")
    assert value["measures"] == ["RR@10", "nDCG@5"]
    assert [(run["name"], run["role"], run["ceiling"]) for run in value["runs"]] == [
        ("all", "run", None),
        ("turned", "run", None),
    ]
    assert {(pair["run"], pair["against"]) for pair in value["comparisons"]} == {("all", "turned")}
    assert len(value["queries"]) == 3
    assert all(len(docs) == 2 for query in value["queries"] for docs in query["lists"].values())
    assert all(len(document["text"]) <= 5 for document in value["documents"].values())
    [judge] = value["agreement"]["labels"]
    assert judge["name"] == "judge.qrels"
    assert {name: figure for name, figure, _ in judge["measures"]}["Cohen's κ"] == 1.0
    assert value["attention"] is value["heads"] is value["bias"] is None
    assert value["commands"][-1].startswith("ranklens report all.run turned.run --collection coll")


def test_without_judgements_there_are_lists(call: Call, collection: Path, tmp_path: Path) -> None:
    description = collection / "collection.toml"
    lines = description.read_text().splitlines(keepends=True)
    description.write_text("".join(line for line in lines if not line.startswith("qrels")))
    done = call("report", collection / "all.run", "--collection", collection)
    assert done.returncode == 0, done.stderr
    assert "nothing is judged" in done.stderr
    value = content(tmp_path / "report.html")
    assert value["measures"] == []
    assert all(query["lists"]["all"] for query in value["queries"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["all.run"], 2, "give --collection"),
        (["all.run", "all.run", "--collection", "."], 2, "given twice"),
        (["absent.run", "--collection", "."], 4, "no run folder and no run file absent.run"),
        ([".", "--collection", "."], 5, "not a folder of `ranklens run`"),
        (["qrels.txt", "--collection", "."], 5, "expected 6 columns"),
        (["all.run", "--collection", ".", "-o", "qrels.txt"], 5, "is not an HTML file"),
        (["all.run", "--collection", ".", "-o", "."], 5, "it is a folder"),
        (["all.run", "--collection", ".", "--baseline", "x"], 2, "none of the runs: all"),
        (["all.run", "--collection", ".", "--attention", "2"], 2, "--reranker attention:MODEL"),
        (["all.run", "--collection", ".", "--orders", "2", "--attention", "0"], 2, "excludes"),
        (["all.run", "--collection", ".", "-m", "nDCG@x"], 2, "nDCG@x"),
        (["all.run", "--collection", ".", "--depth", "0"], 2, "at least 1"),
    ],
)
def test_what_cannot_be_reported_on(
    call: Call,
    collection: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(collection)
    before = (collection / "qrels.txt").read_text()
    done = call("report", *words)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert not (collection / "report.html").exists()
    assert (collection / "qrels.txt").read_text() == before


def test_many_queries_are_cut_by_queries(call: Call, tmp_path: Path, long_collection: Path) -> None:
    run = long_collection / "all.run"
    sizes = []
    for more in ([], ["--queries", 10]):
        done = call("report", run, "--collection", long_collection, *more, "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        sizes.append((said["queries"], said["bytes"]))
    assert [queries for queries, _ in sizes] == [160, 10]
    assert sizes[1][1] < sizes[0][1]
