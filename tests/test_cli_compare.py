"""``ranklens compare`` with real files."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from statsmodels.stats.multitest import multipletests

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., subprocess.CompletedProcess[str]]


def write_runs(folder: Path, **orders: dict[str, list[str]]) -> dict[str, Path]:
    paths = {}
    for name, rankings in orders.items():
        paths[name] = folder / f"{name}.run"
        paths[name].write_text(
            "".join(
                f"{query_id} Q0 {doc_id} {rank} {10 - rank} {name}\n"
                for query_id, doc_ids in rankings.items()
                for rank, doc_id in enumerate(doc_ids, start=1)
            )
        )
    return paths


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Make qrels of eight queries and runs: good, bad and worse are 1st, 2nd and 3rd place."""
    queries = [f"q{number}" for number in range(8)]
    qrels = "".join(f"{q} 0 r{q} {1 + (q > 'q3')}\n{q} 0 n{q} 0\n" for q in queries)
    (tmp_path / "qrels.txt").write_text(qrels)
    write_runs(
        tmp_path,
        good={q: [f"r{q}", f"n{q}", f"u{q}"] for q in queries},
        bad={q: [f"n{q}", f"r{q}", f"u{q}"] if q != "q0" else ["rq0"] for q in queries},
        worse={q: [f"n{q}", f"u{q}", f"r{q}"] if q != "q0" else ["rq0"] for q in queries},
        mixed={q: [f"r{q}"] if q < "q3" else [f"n{q}", f"r{q}"] for q in queries},
    )
    return tmp_path


def cells(text: str, first: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.split()[:1] == [first]]
    return line.split()


def test_two_runs_compared_with_the_first(call: Call, files: Path) -> None:
    done = call("compare", "qrels.txt", "bad.run", "good.run", "-m", "RR@10")
    assert (done.returncode, done.stderr) == (0, "")
    table, rankings = done.stdout.split("rankings")
    assert "RR@10, 8 judged queries, against bad" in table
    # RR 1/2 but for one query: (7/2 + 1)/8. All seven differences are one half.
    assert cells(table, "bad")[:2] == ["bad", "0.5625"]
    row = cells(table, "good")
    assert row[1:3] == ["1.0000", "+0.4375"]
    assert row[-2] == "7/1/0"
    # d_z: mean 7/16, deviation sqrt(7 * (1/16)^2 + (7/16)^2) / sqrt(7)) = sqrt(1/32).
    assert row[-1] == f"{7 / 16 / (1 / 32) ** 0.5:+.2f}"
    assert row[-3].endswith("*")
    # Unjudged: one of three documents; of query q0 none of one for the baseline.
    assert cells(rankings, "bad")[1:] == ["29.2%", "0"]
    assert cells(rankings, "good")[1:4] == ["33.3%", "0", f"{(7 + 1 / 3) / 8:.3f}"]
    assert "paired t test, two-sided; Holm's correction, 1 pair with the baseline" in done.stdout


def test_three_runs_compared_pair_by_pair(call: Call, files: Path) -> None:
    done = call("compare", "qrels.txt", "good.run", "bad.run", "worse.run", "-m", "RR@10")
    assert done.returncode == 0, done.stderr
    means, pairs = done.stdout.split("pair by pair")
    assert cells(means, "a")[:4] == ["a", "good", "b", "c"]
    assert cells(means, "b")[:3] == ["b", "bad", "c"]
    assert cells(means, "c")[:3] == ["c", "worse", f"{(1 + 7 / 3) / 8:.4f}"]
    starts = [line.split()[:3] for line in pairs.splitlines() if " - " in line]
    assert starts == [["b", "-", "a"], ["c", "-", "a"], ["c", "-", "b"]]
    assert "3 pairs per measure" in done.stdout


def test_as_json_with_queries(call: Call, files: Path) -> None:
    done = call(
        "compare", "qrels.txt", "good.run", "bad.run", "worse.run", "--baseline", "bad.run",
        "-m", "nDCG@10", "-m", "RR@10", "--queries", 2, "--json",
        "--test", "randomisation", "--correction", "tukey",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["status"], value["queries"], value["baseline"]) == ("ok", 8, "bad")
    assert (value["test"], value["correction"]) == ("randomisation", "tukey")
    assert (value["family"], value["level"], value["warnings"]) == (2, 0.05, [])
    assert [run["label"] for run in value["runs"]] == ["good", "bad", "worse"]
    assert value["runs"][0]["run"] == "good.run"
    assert sorted(value["runs"][0]["measures"]["RR@10"]) == ["ci95", "value"]
    assert [(p["measure"], p["run"], p["against"]) for p in value["pairs"]] == [
        ("nDCG@10", "good", "bad"), ("nDCG@10", "worse", "bad"),
        ("RR@10", "good", "bad"), ("RR@10", "worse", "bad"),
    ]  # fmt: skip
    # Seven of eight topics differ, all alike: 4 of the 256 ways of signs.
    assert value["pairs"][0]["p"] == 4 / 256
    assert (value["pairs"][0]["wins"], value["pairs"][0]["superiority"]) == (7, 7.5 / 8)
    assert [(o["run"], o["queries"]) for o in value["overlaps"]] == [("good", 8), ("worse", 8)]
    first, second = value["changes"]
    assert (first["run"], first["measure"], first["losses"]) == ("good", "nDCG@10", [])
    assert [change["query_id"] for change in first["wins"]] == ["q1", "q2"]
    moved = first["wins"][0]["movers"]
    assert moved[0] == {
        "doc_id": "rq1", "grade": 1, "rank": 1, "rank_against": 2,
        "contribution": pytest.approx(first["wins"][0]["difference"]),
    }  # fmt: skip
    assert [change["query_id"] for change in second["losses"]] == ["q1", "q2"]


def test_queries_in_a_table(call: Call, files: Path) -> None:
    done = call("compare", "qrels.txt", "bad.run", "good.run", "-m", "RR@10", "--queries", 1)
    shown = done.stdout.split("RR@10 by query, good against bad")[1]
    assert cells(shown, "q1") == ["q1", "0.500", "→", "1.000", "+0.5000"]
    assert "unjudged 1 → 1, Jaccard@10 1.00" in shown
    assert cells(shown, "rq1") == ["rq1", "1", "2", "→", "1", "+0.3691"]


@pytest.mark.parametrize(
    ("correction", "theirs"),
    [("bonferroni", "bonferroni"), ("holm", "holm"), ("bh", "fdr_bh"), ("by", "fdr_by")],
)
def test_corrections(call: Call, files: Path, correction: str, theirs: str) -> None:
    runs = ["good.run", "bad.run", "worse.run", "mixed.run"]
    done = call("compare", "qrels.txt", *runs, "--correction", correction, "--json")
    pairs = json.loads(done.stdout)["pairs"]
    expected = multipletests([pair["p"] for pair in pairs], method=theirs)[1]
    assert [pair["p_corrected"] for pair in pairs] == pytest.approx(expected, rel=1e-9)
    assert [pair["significant"] for pair in pairs] == [p < 0.05 for p in expected]


def test_seeds_decide_tests_by_chance_alone(call: Call, files: Path) -> None:
    def p(seed: int, test: str) -> float:
        done = call(
            "compare", "qrels.txt", "bad.run", "mixed.run", "--test", test, "--seed", seed, "--json"
        )
        return float(json.loads(done.stdout)["pairs"][0]["p"])

    assert p(1, "bootstrap") == p(1, "bootstrap")
    assert p(1, "bootstrap") != p(2, "bootstrap")
    assert p(1, "t") == p(2, "t")


HOSTILE = r"a_b & c|d $x$ 100% #1 {y} \z ~^ <i> [link](u) *s* `--`"


def test_markdown_is_a_table_whatever_the_runs_are_called(call: Call, files: Path) -> None:
    (files / "good.run").rename(files / f"{HOSTILE}.run")
    done = call(
        "compare", "qrels.txt", f"{HOSTILE}.run", "bad.run", "worse.run", "-m", "RR@10",
        "-m", "AP(rel=2)", "--format", "markdown",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    head, rule, first, second, third, blank, legend = done.stdout.splitlines()
    assert head == "| # | run | RR@10 | AP(rel=2) |"
    assert rule == "| --- | --- | ---: | ---: |"
    assert blank == ""
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in (head, rule, first, second))
    name = re.split(r"(?<!\\)\|", first)[2].strip()
    assert re.sub(r"\\(.)", r"\1", name) == HOSTILE
    assert not re.search(r"(?<!\\)[*_`<\[$&](?!\w)", re.sub(r"\\.", "", name))
    assert first.split(" | ")[2] == "**1.0000**<sup>bc</sup>"
    assert second.split(" | ")[2] == "0.5625<sup>c</sup>"
    assert third.split(" | ")[2] == f"{(1 + 7 / 3) / 8:.4f}"
    assert "better than these runs" in legend


def test_latex_is_escaped_whatever_the_runs_are_called(call: Call, files: Path) -> None:
    (files / "good.run").rename(files / f"{HOSTILE}.run")
    (files / "bad.run").rename(files / "[2ex] bad.run")
    done = call(
        "compare", "qrels.txt", f"{HOSTILE}.run", "[2ex] bad.run", "worse.run", "-m", "RR@10",
        "--format", "latex",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:5] == [
        r"% \usepackage{booktabs}", r"\begin{tabular}{lll}", r"\toprule",
        r"\# & Run & RR@10 \\", r"\midrule",
    ]  # fmt: skip
    assert lines[5] == (
        r"a & a\_b \& c\textbar{}d \$x\$ 100\% \#1 \{y\} \textbackslash{}z "
        r"\textasciitilde{}\textasciicircum{} \textless{}i\textgreater{} {[}link{]}(u) *s* "
        r"\textasciigrave{}-{}-\textasciigrave{} & \textbf{1.0000}$^{bc}$ \\"
    )
    assert lines[6] == r"b & {[}2ex{]} bad & 0.5625$^{c}$ \\"
    assert lines[-1] == r"\end{tabular}"
    assert lines.count(r"\bottomrule") == 1
    # Every brace that is not a character of a name is closed.
    plain = re.sub(r"\\[{}]", "", done.stdout)
    assert plain.count("{") == plain.count("}")


def test_many_runs_are_marked_by_numbers(call: Call, files: Path) -> None:
    queries = [f"q{number}" for number in range(8)]
    orders = {f"r{n:02}": {q: [f"r{q}"] for q in queries} for n in range(26)}
    paths = write_runs(files, **orders)
    done = call(
        "compare", "qrels.txt", "good.run", "bad.run", *paths.values(), "-m", "RR@10",
        "--format", "markdown", "--correction", "none",
    )  # fmt: skip
    assert done.stdout.splitlines()[4].startswith("| 3 | r00 | **1.0000**<sup>2</sup>")
    table = call("compare", "qrels.txt", "good.run", "bad.run", *paths.values(), "-m", "RR@10")
    assert "378 pairs: --json has them" in table.stderr
    assert "pair by pair" not in table.stdout


def test_runs_of_one_name_are_told_apart(call: Call, files: Path) -> None:
    for folder in ("x/one", "y/one", "y/two"):
        (files / folder).mkdir(parents=True)
        (files / folder / "bad.run").write_text((files / "bad.run").read_text())
    (files / "good.run.gz").write_bytes((files / "good.run").read_bytes())
    done = call(
        "compare", "qrels.txt", "x/one/bad.run", "y/one/bad.run", "y/two/bad.run", "worse.run",
        "good.run", "--json",
    )  # fmt: skip
    labels = [run["label"] for run in json.loads(done.stdout)["runs"]]
    assert labels == ["x/one/bad.run", "y/one/bad.run", "two/bad.run", "worse", "good"]
    same = json.loads(done.stdout)["pairs"][0]
    assert (same["p"], same["p_corrected"], same["ties"], same["d_z"]) == (1, 1, 8, 0)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["good.run"], 2, "two runs or more"),
        (["good.run", "./good.run"], 2, "given twice"),
        (["good.run", "bad.run", "--baseline", "best.run"], 2, "--baseline 'best.run' is none"),
        (["good.run", "bad.run", "--test", "z"], 2, "unknown test 'z'"),
        (["good.run", "bad.run", "--correction", "fdr"], 2, "unknown correction 'fdr'"),
        (["good.run", "bad.run", "-m", "nDGC"], 2, "unknown measure 'nDGC'"),
        (["good.run", "bad.run", "--json", "--format", "latex"], 2, "--json excludes --format"),
        (["good.run", "bad.run", "--queries", "1", "--format", "latex"], 2, "--queries excludes"),
        (["good.run", "bad.run", "worse.run", "--queries", "1"], 2, "needs --baseline"),
        (["good.run", "bad.run", "--queries", "0"], 2, "at least 1"),
        (["good.run", "missing.run"], 4, "missing.run"),
        (["first.run", "second.run"], 5, "no judged query in common"),
        (["good.run", "other.run"], 5, "no query in common"),
    ],
)
def test_refused(call: Call, files: Path, arguments: list[str], code: int, said: str) -> None:
    write_runs(files, first={"q1": ["rq1"]}, second={"q2": ["rq2"]}, other={"x": ["rq2"]})
    done = call("compare", "qrels.txt", *arguments)
    assert done.returncode == code
    assert said in done.stderr
    if "--json" not in arguments:
        assert done.stdout == ""


def test_missing_queries_are_told(call: Call, files: Path) -> None:
    write_runs(files, some={"q1": ["rq1"], "q2": ["rq2"]})
    done = call("compare", "qrels.txt", "good.run", "some.run")
    assert "warning: some: 6 of 8 judged queries are missing" in done.stderr
    value = json.loads(call("compare", "qrels.txt", "good.run", "some.run", "--json").stdout)
    assert value["runs"][1]["missing_queries"] == ["q0", "q3", "q4", "q5", "q6", "q7"]


def test_the_runs_of_a_real_collection(
    call: Call, shared_collection: Callable[[str], Path]
) -> None:
    folder = shared_collection("trec-dl-2019")
    runs = sorted((folder / "runs-rankllm").glob("*gpt-3.5*.run.gz"))
    runs += sorted((folder / "runs-rankllm").glob("*vicuna-7b-v1.5*.run.gz"))
    assert len(runs) == 6
    done = call("compare", folder / "qrels.txt", *runs, "--correction", "tukey", "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["queries"], value["family"]) == (43, 15)
    # Vicuna 7B is behind all five runs of gpt-3.5, which do not differ among themselves.
    significant = {(p["run"], p["against"]) for p in value["pairs"] if p["significant"]}
    labels = [run["label"] for run in value["runs"]]
    *turbo, seven = labels
    assert {(seven, label) for label in turbo} <= significant
    assert not any(set(pair) <= set(turbo) for pair in significant)


def test_presets_and_policies(call: Call, files: Path) -> None:
    done = call(
        "compare", "qrels.txt", "good.run", "mixed.run", "--preset", "trec-dl", "-m", "RR",
        "--policy", "trec_eval-9,unjudged=removed", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["policy"] == "trec_eval-9, unjudged=removed"
    assert [pair["measure"] for pair in value["pairs"]] == [
        "nDCG@10", "AP(rel=2)", "RR(rel=2)", "R(rel=2)@1000", "Judged@10", "RR",
    ]  # fmt: skip
    assert value["runs"][0]["unjudged@10"] == 0
    beir = call("compare", "qrels.txt", "good.run", "bad.run", "--preset", "beir", "--json")
    assert json.loads(beir.stdout)["policy"] == "trec_eval-9, self_documents=remove"
    wrong = call("compare", "qrels.txt", "good.run", "bad.run", "--preset", "dl19")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "unknown preset 'dl19'" in wrong.stderr


def test_one_query_shows_nothing(call: Call, files: Path) -> None:
    (files / "one.txt").write_text("q1 0 rq1 1\n")
    done = call("compare", "one.txt", "bad.run", "good.run", "-m", "RR@10")
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("rankings")[0]
    assert cells(table, "good") == [
        "good", "1.0000", "+0.5000", "-", "1.0000", "1.0000", "1/0/0", "-",
    ]  # fmt: skip
