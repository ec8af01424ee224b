"""``retrieve``, ``rerank`` and ``evaluate``: one file's output is the next one's input."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def columns(run: Path) -> list[list[str]]:
    return [line.split() for line in run.read_text().splitlines()]


def test_the_commands_chain_through_files(
    run_program: Call, collection: Path, decoder: str, tmp_path: Path
) -> None:
    first, second = tmp_path / "runs" / "bm25.run", tmp_path / "runs" / "reranked.run"
    done = run_program("retrieve", collection, "-o", first, "-k", 3)
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    rows = columns(first)
    assert [row[3] for row in rows if row[0] == "q1"] == ["1", "2", "3"]
    assert {tuple(row[1::4]) for row in rows} == {("Q0", "bm25")}

    done = run_program(
        "rerank", collection, first, "-o", second, "--reranker", decoder, "--depth", 2, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "status": "ok",
        "run": str(second),
        "queries": 4,
        "scale": "raw",
    }
    after = columns(second)
    assert len(after) == len(rows)
    for query_id in ("q1", "q2", "q3", "q4"):
        before_ids = [row[2] for row in rows if row[0] == query_id]
        after_ids = [row[2] for row in after if row[0] == query_id]
        scores = [float(row[4]) for row in after if row[0] == query_id]
        assert set(after_ids[:2]) == set(before_ids[:2])
        assert after_ids[2:] == before_ids[2:], "below the depth the order stays"
        assert all(high > low for high, low in itertools.pairwise(scores))

    done = run_program("evaluate", collection / "qrels.txt", first, second, "-m", "nDCG@10")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if "nDCG@10" in line]
    assert [line[1] for line in lines] == [str(first), str(second)]
    assert "4 judged queries" in done.stdout


def test_evaluate_as_json(call: Call, collection: Path) -> None:
    run = collection / "all.run"
    done = call("evaluate", collection, run, "-m", "nDCG@10", "-m", "AP(rel=2)", "--json")
    assert done.returncode == 0
    value = json.loads(done.stdout)
    assert sorted(value) == ["results", "status", "warnings"]
    assert (value["status"], value["warnings"]) == ("ok", [])
    [result] = value["results"]
    assert (result["run"], result["queries"]) == (str(run), 4)
    assert result["policy"] == "trec_eval-9"
    assert list(result["measures"]) == ["nDCG@10", "AP(rel=2)"]
    measure = result["measures"]["nDCG@10"]
    assert sorted(measure) == ["ci95", "value"]
    low, high = measure["ci95"]
    assert 0 <= low <= measure["value"] <= high <= 1


def test_evaluate_per_query(call: Call, collection: Path) -> None:
    run = collection / "all.run"
    done = call("evaluate", collection, run, "-m", "P@1", "--json", "--per-query")
    measure = json.loads(done.stdout)["results"][0]["measures"]["P@1"]
    # The candidates come in the order of their ids; d0 is relevant to q1 only.
    assert measure["per_query"] == {"q1": 1.0, "q2": 0.0, "q3": 0.0, "q4": 0.0}
    assert measure["value"] == 0.25

    table = call("evaluate", collection, run, "-m", "P@1", "--per-query").stdout
    assert ["q1", "1.0000"] in [line.split() for line in table.splitlines()]


def test_evaluate_says_the_same_of_qrels_and_of_a_collection(call: Call, collection: Path) -> None:
    of_file = call("evaluate", collection / "qrels.txt", collection / "all.run")
    of_collection = call("evaluate", collection, collection / "all.run")
    assert of_file.stdout == of_collection.stdout
    assert "Judged@10" in of_file.stdout


def test_a_collection_says_from_which_grade_on_documents_are_relevant(
    call: Call, collection: Path
) -> None:
    toml = collection / "collection.toml"
    toml.write_text("relevance_level = 2\n" + toml.read_text())
    assert "AP(rel=2)" in call("evaluate", collection, collection / "all.run").stdout


def test_evaluate_warns_of_what_a_run_lacks_and_of_ties(call: Call, collection: Path) -> None:
    run = collection / "some.run"
    run.write_text("q1 Q0 d0 1 1.0 tag\nq1 Q0 d1 2 1.0 tag\n")
    done = call("evaluate", collection, run)
    assert done.returncode == 0
    assert f"warning: {run}: 3 of 4 judged queries are missing" in done.stderr
    assert "tied scores" in done.stderr
    warnings = json.loads(call("evaluate", collection, run, "--json").stdout)["warnings"]
    assert len(warnings) == 2


def test_long_tables_are_whole_where_nobody_watches(call: Call, collection: Path) -> None:
    measures = [word for k in range(1, 40) for word in ("-m", f"nDCG@{k}")]
    done = call("evaluate", collection, collection / "all.run", "--per-query", *measures)
    [line] = [line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["q1"]]
    assert len(line) == 40
    assert "…" not in done.stdout


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ("q1 Q0 d0 1 1.0 tag\nq1 Q0 d1 two 0.5 tag\n", 5, "bad.run:2: the rank 'two'"),
        ("q1 Q0 d0 1 1.0 tag\nq1 d1 0.5\n", 5, "bad.run:2: expected 6 columns"),
        ("q1 Q0 d0 1 nan tag\n", 5, "bad.run:1: the score 'nan'"),
        ("", 5, "the run file is empty"),
        ("x1 Q0 d0 1 1.0 tag\n", 5, "no query in common"),
        ("q1 Q0 elsewhere 1 1.0 tag\n", 5, "no judged document"),
    ],
)
def test_a_run_that_cannot_be_evaluated(
    call: Call, collection: Path, content: str, code: int, named: str
) -> None:
    run = collection / "bad.run"
    run.write_text(content)
    done = call("evaluate", collection, run)
    assert (done.returncode, done.stdout) == (code, "")
    assert named in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["all.run", "-m", "nDGC@10"], 2, "unknown measure 'nDGC@10'"),
        (["missing.run"], 4, "no such file: missing.run"),
    ],
)
def test_a_measure_or_run_that_does_not_exist(
    call: Call, collection: Path, arguments: list[str], code: int, named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(collection)
    done = call(
        "evaluate", "qrels.txt", *[a.replace("all.run", str(collection / a)) for a in arguments]
    )
    assert done.returncode == code
    assert named in done.stderr


def test_qrels_with_a_bad_line_name_it(call: Call, collection: Path) -> None:
    qrels = collection / "qrels.txt"
    qrels.write_text(qrels.read_text() + "q1 0 d5 good\n")
    done = call("evaluate", qrels, collection / "all.run")
    assert done.returncode == 5
    assert "qrels.txt:13: the grade 'good'" in done.stderr


def test_presets_bring_measures_and_policy(call: Call, collection: Path) -> None:
    run = collection / "some.run"
    # q1 is also the id of a document, which BEIR's evaluation removes.
    run.write_text("q1 Q0 q1 1 3 t\nq1 Q0 d0 2 2 t\n")
    done = call(
        "evaluate", collection, run, "--preset", "beir", "-m", "RR", "--json", "--per-query"
    )
    [result] = json.loads(done.stdout)["results"]
    assert list(result["measures"]) == ["nDCG@10", "R@100", "R_cap@100", "RR"]
    assert result["policy"] == "trec_eval-9, self_documents=remove"
    assert result["measures"]["RR"]["per_query"]["q1"] == 1.0
    kept = call("evaluate", collection, run, "--policy", "trec_eval-10", "-m", "RR", "--json")
    [result] = json.loads(kept.stdout)["results"]
    assert result["policy"] == "trec_eval-10"
    assert result["measures"]["RR"]["value"] == 0.125
    table = call("evaluate", collection, collection / "all.run", "--preset", "trec-dl").stdout
    assert "4 judged queries, mean and 95% interval (trec_eval-9)" in table
    assert "AP(rel=2)" in table


def test_the_first_stage_its_ceiling_and_the_change(call: Call, collection: Path) -> None:
    before, after = collection / "before.run", collection / "after.run"
    # d1 has grade 2, d0 grade 1, d8 grade 0 for q1; the other queries are missing.
    before.write_text("".join(f"q1 Q0 {d} 1 {-n} t\n" for n, d in enumerate(["d8", "d0", "d1"])))
    after.write_text("".join(f"q1 Q0 {d} 1 {-n} t\n" for n, d in enumerate(["d0", "d8", "d1"])))
    arguments = [
        "evaluate",
        collection,
        after,
        "--first-stage",
        before,
        "-m",
        "P(rel=2)@1",
        "-m",
        "RR",
    ]
    [result] = json.loads(call(*arguments, "--json").stdout)["results"]
    values = {
        name: [round(4 * measure[key], 6) for key in ("first_stage", "value", "change", "ceiling")]
        for name, measure in result["measures"].items()
    }
    # One of four queries: four times the mean.
    assert values == {"P(rel=2)@1": [0, 0, 0, 1], "RR": [0.5, 1, 0.5, 1]}
    shallow = json.loads(call(*arguments, "--depth", 2, "--json").stdout)["results"][0]["measures"]
    assert shallow["P(rel=2)@1"]["ceiling"] == 0.0
    row = next(line for line in call(*arguments).stdout.splitlines() if line.split()[:1] == ["RR"])
    assert row.split()[-3:] == ["0.1250", "0.2500", "+0.1250"]
    assert "before.run: 3 of 4 judged queries are missing" in call(*arguments).stderr
    assert "no reranking" not in call(*arguments).stderr


def test_the_ceiling_says_its_depth_and_which_runs_it_does_not_bound(
    call: Call, collection: Path
) -> None:
    before, after = collection / "before.run", collection / "after.run"
    before.write_text("".join(f"q1 Q0 {d} 1 {-n} t\n" for n, d in enumerate(["d8", "d0", "d1"])))
    after.write_text("".join(f"q1 Q0 {d} 1 {-n} t\n" for n, d in enumerate(["d1", "d8", "d0"])))
    arguments = ["evaluate", collection, after, "--first-stage", before, "--depth", 2, "-m", "RR"]
    done = call(*arguments)
    assert f", ceiling of the first 2 of {before}" in " ".join(done.stdout.split())
    assert (
        f"{after}: 1 queries have documents that are not among the first 2 of {before} "
        "(first: 'q1'): it is no reranking of these, and the ceiling does not bound it"
    ) in done.stderr
    told = json.loads(call(*arguments, "--json").stdout)
    assert told["first_stage"] == {"run": str(before), "depth": 2}


def test_a_policy_cuts_the_ceiling_after_the_reranking(call: Call, collection: Path) -> None:
    before, after = collection / "before.run", collection / "after.run"
    before.write_text("q1 Q0 u 1 3 t\nq1 Q0 d8 2 2 t\nq1 Q0 d1 3 1 t\n")
    after.write_text("q1 Q0 d1 1 3 t\nq1 Q0 d8 2 2 t\nq1 Q0 u 3 1 t\n")
    for change in ("depth=1", "depth=1,unjudged=removed"):
        arguments = ["--first-stage", before, "-m", "RR", "--policy", f"trec_eval-9,{change}"]
        done = call("evaluate", collection, after, *arguments, "--json")
        found = json.loads(done.stdout)["results"][0]["measures"]["RR"]
        assert (found["first_stage"], found["value"], found["ceiling"]) == (0, 0.25, 0.25)


def test_means_of_other_queries_are_not_subtracted(call: Call, collection: Path) -> None:
    both, one = collection / "both.run", collection / "one.run"
    one.write_text("q1 Q0 d0 1 1 t\n")
    both.write_text(one.read_text() + "q2 Q0 d1 1 1 t\n")
    arguments = ["evaluate", collection, one, "--policy", "trec_eval-9,missing=skip", "-m", "RR"]
    done = call(*arguments, "--first-stage", both)
    assert (done.returncode, done.stdout) == (5, "")
    assert f"{one} and the first stage do not have the same judged queries" in done.stderr
    assert "(only one has 'q2')" in done.stderr
    assert call(*arguments, "--first-stage", one).returncode == 0


def test_a_run_of_another_test_set_is_named(call: Call, collection: Path) -> None:
    run, other = collection / "other.run", collection / "all.run"
    run.write_text("other Q0 d0 1 1 t\n")
    for arguments, name in ((["evaluate"], str(run)), (["compare"], "other")):
        done = call(*arguments, collection, run, other)
        assert done.returncode == 5
        assert f"error: {name}: run 't' and the qrels have no query in common" in done.stderr


def test_residuals_stand_beside_the_values(call: Call, collection: Path) -> None:
    run = collection / "some.run"
    run.write_text("q1 Q0 d9 1 2 t\nq1 Q0 d0 2 1 t\n")
    arguments = ["evaluate", collection, run, "--residuals", "-m", "RR", "-m", "NumRet"]
    measures = json.loads(call(*arguments, "--json").stdout)["results"][0]["measures"]
    assert (measures["RR"]["value"], measures["RR"]["upper"]) == (0.125, 0.25)
    assert measures["NumRet"]["upper"] is None
    table = call(*arguments).stdout
    assert "at most" in table
    # The number of documents is no mean.
    assert "mean" not in table


def test_trec_evals_layout(call: Call, collection: Path) -> None:
    run = collection / "some.run"
    run.write_text("q1 Q0 d8 1 2 bm25\nq1 Q0 d0 2 1 bm25\n")
    measures = ["-m", "AP", "-m", "ndcg_cut_10", "-m", "NumRet", "-m", "R_cap@5"]
    done = call("evaluate", collection, run, "--trec-eval", *measures)
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["runid                 ", "all", "bm25"],
        ["map                   ", "all", "0.0625"],
        # (1/log2(3)) / (2 + 1/log2(3)), a quarter of it.
        ["ndcg_cut_10           ", "all", "0.0600"],
        ["num_ret               ", "all", "2"],
        ["R_cap@5               ", "all", "0.1250"],
    ]
    lines = call("evaluate", collection, run, "--trec-eval", "--per-query", *measures).stdout
    assert lines.splitlines()[0].split() == ["map", "q1", "0.2500"]
    assert len(lines.splitlines()) == 4 * 4 + 5


def test_a_terminal_cannot_be_steered_by_ids_tags_or_file_names(call: Call, tmp_path: Path) -> None:
    qrels, run = tmp_path / "qrels.txt", tmp_path / "a\x1b[2J.run"
    qrels.write_text("\x1b[31m 0 d 1\nother 0 d 1\n")
    run.write_text("\x1b[31m Q0 d 1 1 \x1b[32m\n")
    for options in ([], ["--trec-eval"]):
        done = call("evaluate", qrels, run, "-m", "AP", "--per-query", *options)
        assert done.returncode == 0
        assert r"\x1b[31m" in done.stdout
        assert r"a\x1b[2J.run: 1 of 2 judged queries are missing" in done.stderr
        assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--preset", "trec-deep"], "unknown preset 'trec-deep'; choose trec-dl, trec-dl-v2"),
        (["--policy", "trec_eval-8"], "unknown policy 'trec_eval-8'"),
        (["--policy", ""], "unknown policy ''"),
        (["--preset", ""], "unknown preset ''"),
        (["--depth", 5], "--depth is about the ceiling of --first-stage"),
        (["--trec-eval", "--residuals"], "--trec-eval does not go with"),
    ],
)
def test_options_that_make_no_sense(
    call: Call, collection: Path, arguments: list[str | int], named: str
) -> None:
    done = call("evaluate", collection, collection / "all.run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr
