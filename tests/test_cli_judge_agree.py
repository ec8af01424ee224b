"""``judge agree``: label files, folders of runs and score tables in, one report out."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.qrels import read_qrels
from ranklens.data.runs import read_run
from ranklens.eval.measures import evaluate

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]

QUERIES = ("q1", "q2", "q3")
DOCS = "abcdef"
# Grades of the documents a to f.
GOLD = {"q1": "320100", "q2": "013200", "q3": "100003"}
JUDGE = {"q1": "330100", "q2": "023200", "q3": "000013"}
RUNS = {
    "gpt-4o.rerank": {"q1": "abdcef", "q2": "cdbaef", "q3": "fabcde"},
    "bm25": {"q1": "fedcba", "q2": "abcdef", "q3": "abcdef"},
    "llama-7b": {"q1": "badcef", "q2": "fedcba", "q3": "fbacde"},
}


def labels(path: Path, grades: dict[str, str]) -> Path:
    lines = [
        f"{query} 0 {doc} {grade}\n"
        for query, row in grades.items()
        for doc, grade in zip(DOCS, row, strict=False)
    ]
    path.write_text("".join(lines))
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    labels(tmp_path / "gold.txt", GOLD)
    labels(tmp_path / "judge.txt", JUDGE)
    runs = tmp_path / "runs"
    runs.mkdir()
    for name, rankings in RUNS.items():
        lines = [
            f"{query} Q0 {doc} {rank} {10 - rank} tag\n"
            for query, docs in rankings.items()
            for rank, doc in enumerate(docs, start=1)
        ]
        if name == "bm25":
            (runs / "bm25.run.gz").write_bytes(gzip.compress("".join(lines).encode()))
        else:
            (runs / f"{name}.run").write_text("".join(lines))
    (runs / "README.md").write_text("not a run")
    return tmp_path


def as_json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    assert value["status"] == "ok"
    return value


def test_all_families_with_a_folder_of_runs(call: Call, files: Path) -> None:
    done = call(
        "judge", "agree", "gold.txt", "judge.txt", "--runs", "runs", "--judge-model", "gpt-4o",
        "--json",
    )  # fmt: skip
    value = as_json(done)
    assert value["not_measured"] == {}
    assert (value["measure"], value["test"], value["correction"]) == ("nDCG@10", "t", "holm")
    [result] = value["results"]
    found = result["label_agreement"]
    assert (found["pairs"], found["gold_pairs"], found["scale"]) == (18, 18, "0-3")
    assert found["exact"] == pytest.approx(14 / 18)
    assert found["mean_signed_error"] == pytest.approx((1 + 1 - 1 + 1) / 18)
    assert sum(map(sum, found["confusion"])) == 18
    means = result["rankings"]["means"]
    assert set(means) == set(RUNS)
    for side in ("gold", "judge"):
        qrels = read_qrels(files / f"{side}.txt")
        for name, mean in means.items():
            suffix = ".run.gz" if name == "bm25" else ".run"
            expected = evaluate(qrels, read_run(files / "runs" / f"{name}{suffix}"), ["nDCG@10"])
            assert mean[side] == pytest.approx(expected.measures["nDCG@10"].value)
    assert result["rankings"]["winner"] == {
        "gold": "gpt-4o.rerank", "judge": "gpt-4o.rerank", "same": True
    }  # fmt: skip
    assert sum(result["significance"]["cells"].values()) == result["significance"]["pairs"] == 3
    circularity = result["circularity"]
    assert circularity["own"]["systems"] == ["gpt-4o.rerank"]
    lifts = {name: mean["judge"] - mean["gold"] for name, mean in means.items()}
    rest = (lifts["bm25"] + lifts["llama-7b"]) / 2
    assert circularity["own"]["self_preference"] == pytest.approx(lifts["gpt-4o.rerank"] - rest)
    assert circularity["unknown_systems"] == ["bm25"]
    # Every run holds all documents: as rerankers they are all the judge's ideal ranking.
    reranker = circularity["judge_as_reranker"]
    assert reranker["run_judge"] == pytest.approx(1)
    assert reranker["run_gold"] < 1
    assert any("of one model family (gpt" in text for text in value["warnings"])


def test_the_terminal_shows_every_family(call: Call, files: Path) -> None:
    done = call("judge", "agree", "gold.txt", "judge.txt", "--runs", "runs")
    assert done.returncode == 0, done.stderr
    for part in ("Cohen's κ", "τ_AP", "MA_g", "publication bias", "by judge (ceiling)"):
        assert part in done.stdout
    assert "self-preference: not measured: give --judge-model" in done.stdout
    done = call("judge", "agree", "gold.txt", "judge.txt")
    said = "rankings, significance, circularity: not measured: give --runs or --scores"
    assert said in done.stdout
    assert "τ_b" not in done.stdout


def test_label_sets_side_by_side_best_first(call: Call, files: Path) -> None:
    labels(files / "same.txt", GOLD)
    labels(files / "bad.txt", {"q1": "003000", "q2": "300009", "q3": "033"})
    done = call("judge", "agree", "gold.txt", "bad.txt", "same.txt", "judge.txt", "--json")
    value = as_json(done)
    assert [row["labels"] for row in value["results"]] == ["same.txt", "judge.txt", "bad.txt"]
    assert value["results"][0]["label_agreement"]["kappa"] == 1
    bad = value["results"][2]["label_agreement"]
    assert (bad["clipped"]["judge"], bad["pairs"]) == ({"9": 1}, 15)
    assert set(value["not_measured"]) == {"rankings", "significance", "circularity"}
    assert "bad.txt: 3 of 18 gold pairs have no label of the judge" in value["warnings"]
    table = call("judge", "agree", "gold.txt", "bad.txt", "same.txt").stdout.splitlines()
    rows = [line.split()[0] for line in table if line.strip().startswith(("same", "bad"))]
    assert rows[:2] == ["same.txt", "bad.txt"]


def test_labels_of_a_longer_scale_rank_as_they_are(call: Call, files: Path) -> None:
    # The best document has 5, what is a little good 4: clipped to 0-3 they were the same.
    longer = {query: row.replace("3", "5").replace("2", "4") for query, row in GOLD.items()}
    labels(files / "longer.txt", longer)
    value = as_json(call("judge", "agree", "gold.txt", "longer.txt", "--runs", "runs", "--json"))
    [result] = value["results"]
    qrels = read_qrels(files / "longer.txt")
    run = read_run(files / "runs" / "llama-7b.run")
    expected = evaluate(qrels, run, ["nDCG@10"]).measures["nDCG@10"].value
    assert result["rankings"]["means"]["llama-7b"]["judge"] == pytest.approx(expected)
    assert result["label_agreement"]["clipped"]["judge"] == {"4": 2, "5": 3}
    assert any("of another scale than the gold's" in text for text in value["warnings"])
    stated = as_json(
        call("judge", "agree", "gold.txt", "longer.txt", "--scale", "0-5", "--json")
    )["results"][0]["label_agreement"]  # fmt: skip
    assert (stated["scale"], stated["clipped"]["judge"]) == ("0-5", {})
    assert list(stated["kappa_binary"]) == [">=1", ">=2", ">=3", ">=4", ">=5"]


def test_agreement_by_length_of_a_collections_passages(call: Call, files: Path) -> None:
    folder = files / "collection"
    folder.mkdir()
    (folder / "docs.tsv").write_text("".join(f"{d}\t{'word ' * n}\n" for n, d in enumerate(DOCS)))
    (folder / "queries.tsv").write_text("".join(f"{query}\ttext\n" for query in QUERIES))
    labels(folder / "qrels.txt", GOLD)
    (folder / "collection.toml").write_text(
        'name = "c"\ndocs = "docs.tsv"\nqueries = "queries.tsv"\nqrels = "qrels.txt"\n'
    )
    done = call("judge", "agree", "collection", "judge.txt", "--texts", "collection", "--json")
    rows = as_json(done)["results"][0]["label_agreement"]["by_length"]
    assert [row["words"] for row in rows] == [[0, 1], [2, 2], [3, 4], [5, 5]]
    assert sum(row["pairs"] for row in rows) == 18
    assert (
        "5-5" in call("judge", "agree", "collection", "judge.txt", "--texts", "collection").stdout
    )


def table(path: Path, systems: str, topics: str, shift: float = 0.0) -> Path:
    lines = ["run\ttopic\tndcg_cut_10\n"]
    for i, system in enumerate(systems):
        for j, topic in enumerate(topics):
            lines.append(f"{system}\t{topic}\t{0.2 * i + 0.01 * (i * j % 3) + shift:.4f}\n")
    path.write_text("".join(lines))
    return path


def test_score_tables_alone(call: Call, tmp_path: Path) -> None:
    gold = table(tmp_path / "g.tsv", "wxyz", "1234")
    judge = table(tmp_path / "j.tsv", "xyzv", "2345", shift=0.1)
    value = as_json(call("judge", "agree", "--scores", gold, "--scores", judge, "--json"))
    [result] = value["results"]
    assert value["not_measured"] == {"label_agreement": "not measured: give GOLD and LABELS"}
    assert (result["labels"], result["label_agreement"]) == (str(judge), None)
    assert result["rankings"]["systems"] == 3
    assert result["rankings"]["topics"] == {"gold": 3, "judge": 3}
    assert result["circularity"]["judge_as_reranker"] is None
    assert any("1 systems have gold scores only" in text for text in value["warnings"])
    assert any("3 topics are in both; 1 of the gold alone" in text for text in value["warnings"])
    command = ("judge", "agree", "--scores", gold, "--scores", judge, "--topics", "own")
    value = as_json(call(*command, "--correction", "tukey", "--json"))
    assert value["results"][0]["rankings"]["topics"] == {"gold": 4, "judge": 4}
    assert (value["test"], value["correction"]) == (None, "tukey")
    shown = call(*command).stdout
    assert "labels: not measured: give GOLD and LABELS" in shown
    assert "judge as reranker: not measured" in shown


def test_names_cannot_act_on_the_terminal(call: Call, tmp_path: Path) -> None:
    gold, judge = tmp_path / "g.tsv", tmp_path / "j.tsv"
    for path in (gold, judge):
        rows = [f"{name}\t{topic}\t{score}\n" for name, score in (("a\x1b[31m", 0.5), ("[b]", 0.2))
                for topic in "12"]  # fmt: skip
        path.write_text("run\ttopic\tndcg_cut_10\n" + "".join(rows))
    done = call("judge", "agree", "--scores", gold, "--scores", judge)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert r"a\x1b[31m" in done.stdout
    assert "gold and judge scores are the same throughout" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nothing to compare"),
        (["gold.txt"], 2, "give the judge's labels"),
        (["gold.txt", "judge.txt", "--runs", "runs", "--scores", "t.tsv"], 2, "exclude each other"),
        (["--scores", "t.tsv"], 2, "twice or more"),
        (["gold.txt", "judge.txt", *["--scores", "t.tsv"] * 3], 2, "1 label sets need 2 tables"),
        (["gold.txt", "judge.txt", "--topics", "all"], 2, "choose shared or own"),
        (["gold.txt", "judge.txt", "--test", "z"], 2, "unknown test 'z'"),
        (["gold.txt", "judge.txt", "--correction", "x"], 2, "unknown correction 'x'"),
        (["gold.txt", "judge.txt", "--scale", "3"], 2, "the scale '3'"),
        (["--scores", "t.tsv", "--scores", "t.tsv", "--scale", "0-3"], 2, "about labels"),
        (
            ["gold.txt", "judge.txt", "--judge-model", "a", "--judge-model", "b"], 2,
            "once for each of 1 judges",
        ),
        (["gold.txt", "none.txt"], 4, "none.txt"),
        (["gold.txt", "judge.txt", "--runs", "nowhere"], 4, "no folder of runs 'nowhere'"),
        (["gold.txt", "judge.txt", "--runs", "few"], 5, "few has 1 runs"),
        (["gold.txt", "judge.txt", "--runs", "twice"], 5, "two runs of the name 'a'"),
        (["gold.txt", "judge.txt", "--runs", "runs", "-m", "x"], 2, "unknown measure 'x'"),
        (
            ["gold.txt", "judge.txt", "--runs", "runs", "-m", "LastRel"], 2,
            "better when it is lower",
        ),
        (["gold.txt", "judge.txt", "--runs", "runs", "-m", "NumRet"], 2, "not the mean"),
        (["gold.txt", "float.txt"], 5, "float.txt:1: the grade '0.5' is not an integer"),
        (
            ["gold.txt", "judge.txt", "float.txt", "--runs", "few"], 5,
            "float.txt:1: the grade '0.5' is not an integer",
        ),
        (["gold.txt", "other.txt"], 5, "no labelled pair in common"),
        (["--scores", "t.tsv", "--scores", "u.tsv"], 5, "--topics own"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(
    call: Call, files: Path, arguments: list[str], code: int, message: str
) -> None:
    table(files / "t.tsv", "ab", "12")
    table(files / "u.tsv", "ab", "34")
    labels(files / "other.txt", {"q9": "11"})
    (files / "float.txt").write_text("q1 0 a 0.5\n")
    for name in ("few/a.run", "twice/a.run"):
        path = files / name
        path.parent.mkdir()
        path.write_text("q1 Q0 a 1 1 t\n")
    (files / "twice" / "a.run.gz").write_bytes(gzip.compress(b"q1 Q0 a 1 1 t\n"))
    done = call("judge", "agree", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


def test_the_help_has_an_example(call: Call) -> None:
    done = call("judge", "agree", "--help")
    assert done.returncode == 0
    assert "Example: ranklens judge agree" in done.stdout
