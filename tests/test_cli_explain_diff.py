"""``ranklens explain-diff``: files in, a verdict out."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def toy(tmp_path: Path) -> tuple[Path, Path]:
    """Write the graded toy: nDCG@10 is .790, or .681 with gains of 2^grade - 1."""
    (tmp_path / "qrels.txt").write_text("q 0 a 1\nq 0 b 2\nq 0 c 3\n")
    (tmp_path / "a.run").write_text("q Q0 a 1 3 t\nq Q0 b 2 2 t\nq Q0 c 3 1 t\n")
    return tmp_path / "qrels.txt", tmp_path / "a.run"


def test_the_verdict_as_text(call: Call, toy: tuple[Path, Path]) -> None:
    done = call("explain-diff", *toy, "-m", "nDCG@10", "--value", "0.6806", "--value", "0.79")
    assert (done.returncode, "warning" in done.stderr) == (0, False)
    assert done.stderr.startswith("single rules: ")
    lines = done.stdout.splitlines()
    assert lines[0] == "nDCG@10 by default (trec_eval 9 with -c): 0.789998"
    assert "0.6806 is explained" in done.stdout
    [row] = [line.split() for line in lines if line.split()[:1] == ["explains"]]
    assert row == ["explains", "gain", "2^grade", "-", "1", "0.680606", "+0.000006"]
    assert "0.79 agrees: no rule needs to change" in lines
    assert "  documents with their query's id are removed" in lines
    assert any("needs another run" in line for line in lines)
    done = call("explain-diff", *toy, "-m", "nDCG@10", "--value", "0.1234")
    assert "nothing explains 0.1234" in done.stdout


def test_the_verdict_as_json(call: Call, toy: tuple[Path, Path]) -> None:
    done = call("explain-diff", *toy, "-m", "nDCG@10", "--value", "68.1", "--json")
    value = json.loads(done.stdout)
    assert (value["status"], value["measure"]) == ("ok", "nDCG@10")
    assert value["value"] == pytest.approx(0.789998, abs=1e-6)
    [target] = value["targets"]
    assert (target["given"], target["agrees"]) == ("68.1", False)
    assert target["explains"] == [
        {
            "rules": [{"kind": "measure", "rule": "gain 2^grade - 1"}],
            "value": pytest.approx(0.680606, abs=1e-6),
        }
    ]
    assert {"kind": "order", "rule": "scores in double precision"} in value["without_effect"]
    assert len(value["not_checkable"]) == 5


def test_several_explanations_are_warned_of(call: Call, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("q 0 d1 1\nq 0 d2 0\n")
    (tmp_path / "a.run").write_text("q Q0 d1 1 1 t\nq Q0 d2 2 1 t\n")
    done = call("explain-diff", "q.txt", "a.run", "-m", "RR", "--value", "1.00")
    assert "warning: 3 explanations give 1.00: this figure alone does not say" in done.stderr


def test_two_runs_that_should_agree(call: Call, tmp_path: Path) -> None:
    lines = [f"q Q0 d{n} {n} {-n} t\n" for n in range(1, 13)]
    (tmp_path / "q.txt").write_text("q 0 d1 1\nq 0 d12 1\n")
    (tmp_path / "whole.run").write_text("".join(lines))
    (tmp_path / "cut.run").write_text("".join(lines[:10]))
    given = ("explain-diff", "q.txt", "whole.run", "-m", "AP", "--json")
    done = call(*given, "--other-run", "cut.run")
    assert done.returncode == 0, done.stderr
    [target] = json.loads(done.stdout)["targets"]
    [explained] = target["explains"]
    assert (target["given"], explained["value"]) == ("0.5", 0.5)
    assert explained["rules"] == [{"kind": "run", "rule": "only the first 10 documents of a query"}]
    done = call(*given, "--other-run", "whole.run")
    assert json.loads(done.stdout)["targets"][0]["agrees"]


def test_other_qrels_and_a_collections_texts(call: Call, collection: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text((collection / "qrels.txt").read_text().replace("q1 0 d0 1", "q1 0 d0 0"))
    run = collection / "all.run"
    expected = call("evaluate", other, run, "-m", "AP", "--json")
    value = json.loads(expected.stdout)["results"][0]["measures"]["AP"]["value"]
    given = ("explain-diff", collection, run, "-m", "AP", "--value", f"{value:.6f}", "--json")
    done = call(*given, "--other-qrels", other)
    found = json.loads(done.stdout)
    [explained] = found["targets"][0]["explains"]
    assert explained["rules"] == [{"kind": "judgements", "rule": "the other qrels"}]
    # The collection's documents have texts of their own each.
    same = {"kind": "run", "rule": "documents of the same text count once"}
    assert same in found["without_effect"]
    assert not any("same text" in text for text in found["not_checkable"])
    done = call(*given)
    assert json.loads(done.stdout)["targets"][0]["explains"] == []


def test_parts_have_a_macro_and_a_micro_mean(call: Call, tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("q 0 a 1\n")
    (tmp_path / "1.run").write_text("q Q0 a 1 1 t\n")
    (tmp_path / "2.txt").write_text("p 0 b 1\nq 0 b 1\np 0 a 0\nq 0 a 0\n")
    (tmp_path / "2.run").write_text("p Q0 a 1 2 t\np Q0 b 2 1 t\nq Q0 a 1 2 t\nq Q0 b 2 1 t\n")
    given = ("explain-diff", "1.txt", "1.run", "2.txt", "2.run", "-m", "RR", "--json")
    done = call(*given, "--value", "0.6667")
    value = json.loads(done.stdout)
    assert value["value"] == 0.75
    [explained] = value["targets"][0]["explains"]
    assert [rule["rule"] for rule in explained["rules"]] == [
        "mean over all queries, not of the parts' means"
    ]
    done = call(*given, "--other-run", "2.run")
    assert (done.returncode, "not to parts" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ([], 2, "--value or --other-run"),
        (["--value", "0.5"], 2, "too few digits"),
        (["--value", "0.5", "--tolerance", "2"], 2, "tolerance must lie"),
        (["--value", "0.4974", "extra"], 2, "3 were given"),
        (["--value", "0.4974", "--other-qrels", "none.txt"], 4, "none.txt"),
    ],
)
def test_calls_that_are_refused(
    call: Call, toy: tuple[Path, Path], more: list[str], code: int, said: str
) -> None:
    done = call("explain-diff", *toy, "-m", "nDCG@10", *more)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_help_has_an_example(call: Call) -> None:
    assert "Example: ranklens explain-diff " in call("explain-diff", "--help").stdout


def test_real_judgements_with_and_without_the_level(
    call: Call, shared_collection: Callable[[str], Path]
) -> None:
    """TREC DL counts grade 2 as relevant for AP; many a paper forgets it."""
    folder = shared_collection("trec-dl-2019")
    files = folder / "qrels.txt", folder / "candidates" / "BM25.top100.run"
    done = call("evaluate", *files, "-m", "AP(rel=2)", "--json")
    value = json.loads(done.stdout)["results"][0]["measures"]["AP(rel=2)"]["value"]
    done = call("explain-diff", *files, "-m", "AP", "--value", f"{value:.4f}", "--json")
    [target] = json.loads(done.stdout)["targets"]
    assert [one["rules"][0]["rule"] for one in target["explains"]] == ["relevant from grade 2"]
