"""``ranklens udcg``: one file's output is the next command's input."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def sigmoid(s: float) -> float:
    return 1 / (1 + math.exp(-s))


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Write forty questions of three passages; answers depend on the first passage most."""
    path = tmp_path / "scored.json"
    path.write_text(json.dumps([question(number) for number in range(40)]))
    return path


def question(number: int) -> dict[str, Any]:
    p_abs = [(7 * number % 10) / 10, (3 * number % 10) / 10, 0.5]
    relevant = [number % 2 == 0, number % 3 == 0, False]
    return {
        "example_id": f"q{number}",
        "question": "who?",
        "answers": ["Ann"],
        "passages": [
            {"doc_id": f"d{place}", "text": "t", "is_relevant": flag,
             "models_info": {"m": {"no_res_prob": p}}}
            for place, (p, flag) in enumerate(zip(p_abs, relevant, strict=True))
        ],
        "generated": {
            "m": {"depth": 2, "text": "Ann", "abstained": number % 4 == 1,
                  "f1": (1 - p_abs[0]) * relevant[0], "graded": number % 5 / 4}
        },
    }  # fmt: skip


def test_from_a_run_to_answers(
    call: Call, collection: Path, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="the extra llm is not installed")
    golds = tmp_path / "golds.jsonl"
    golds.write_text(
        "".join(json.dumps({"query_id": f"q{n}", "answers": ["oven", "warm soil"]}) + "\n"
                for n in (1, 2, 3))
    )  # fmt: skip
    lists, out = tmp_path / "lists.json", tmp_path / "scored.json"
    done = call(
        "udcg",
        "prepare",
        collection,
        "all",
        "-o",
        lists,
        "--depth",
        3,
        "--answers",
        golds,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["examples"], value["passages"]) == (4, 12)
    # The candidates are d0, d1, d10 for every query; d10 is judged for q3 alone.
    assert value["unjudged"] == 9
    assert value["warnings"] == [
        "9 of 12 passages are not judged: irrelevant",
        f"1 queries have no gold answers in {golds}",
    ]
    made = json.loads(lists.read_text())
    assert [p["doc_id"] for p in made[0]["passages"]] == ["d0", "d1", "d10"]
    assert [p["is_relevant"] for p in made[0]["passages"]] == [True, True, False]
    assert made[0]["passages"][0]["text"] == "bread is baked in an oven"

    model = tiny_model()
    done = call("udcg", "score", lists, "--model", model, "--dtype", "float32", "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["model"], value["missing"], value["dtype"]) == (model.name, 0, "float32")
    known = [
        p["models_info"][model.name] for e in json.loads(out.read_text()) for p in e["passages"]
    ]
    assert all(0 < one["no_res_prob"] < 1 for one in known)
    assert {one["template"] for one in known} == {value["template"]}
    again = tmp_path / "again.json"
    done = call("udcg", "score", lists, "--model", model, "--dtype", "float32", "-o", again)
    assert done.returncode == 0
    assert again.read_bytes() == out.read_bytes()

    # A question that does not fit leaves its passages without a value, and the others with theirs.
    made[3]["question"] = "why? " * 5000
    lists.write_text(json.dumps(made))
    done = call("udcg", "score", lists, "--model", model, "-o", again, "--json")
    assert done.returncode == 7
    value = json.loads(done.stdout)
    assert (value["status"], value["passages"], value["missing"]) == ("partial", 12, 3)
    infos = [["models_info" in p for p in e["passages"]] for e in json.loads(again.read_text())]
    assert [scored for one in infos for scored in one] == [True] * 9 + [False] * 3

    done = call("udcg", "measure", out, "-k", 1, "-k", 3, "--json", "--per-query")
    assert done.returncode == 0, done.stderr
    measures = json.loads(done.stdout)["measures"]
    first = known[0]["no_res_prob"]
    assert measures["UDCG@1"]["per_query"]["q1"] == pytest.approx(sigmoid(1 - first))
    raw = (1 - first) + (1 - known[1]["no_res_prob"]) - (1 - known[2]["no_res_prob"]) / 3
    assert measures["UDCG@3"]["per_query"]["q1"] == pytest.approx(sigmoid(raw / 3))

    answered = tmp_path / "answered.json"
    arguments = ("--model", model, "--depth", 2, "--tokens", 4)
    done = call("udcg", "answer", out, *arguments, "-o", answered)
    assert done.returncode == 0, done.stderr
    assert "1 questions have no gold answers and are left out" in done.stderr
    examples = json.loads(answered.read_text())
    assert ["generated" in example for example in examples] == [True, True, True, False]
    assert examples[0]["generated"][model.name]["depth"] == 2
    assert (tmp_path / "home" / "ranklens" / "udcg").is_dir()

    done = call("udcg", "check", answered, "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["questions"], value["depth"]) == (3, 2)
    assert list(value["measures"]) == ["UDCG@2", "log2_utility@2", "nDCG@2", "P@2"]


def test_the_authors_sample(
    call: Call, shared_collection: Callable[[str], Path], tmp_path: Path
) -> None:
    sample = shared_collection("udcg-sample")
    out = tmp_path / "out.json"
    done = call(
        "udcg", "measure", sample / "dataset_with_scores.json", "--gamma", 0.333, "-o", out
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text()) == json.loads(
        (sample / "dataset_with_udcg.json").read_text()
    )
    assert "0.5298" in done.stdout
    done = call("udcg", "measure", sample / "dataset_with_udcg.json")
    assert "the file's own UDCG differs by up to 6.6e-05" in done.stderr
    done = call("udcg", "measure", sample / "dataset_with_udcg.json", "--gamma", 0.333)
    assert "warning" not in done.stderr
    done = call("udcg", "measure", sample / "sample_dataset.json")
    assert done.returncode == 5
    assert "`ranklens udcg score` computes it" in done.stderr


def test_empty_lists_and_missing_values_are_said(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    full, empty = question(2), question(3)
    empty["passages"] = []
    del full["passages"][1]["models_info"]
    path.write_text(json.dumps([full, empty]))
    done = call("udcg", "measure", path, "--json", "--per-query")
    value = json.loads(done.stdout)
    assert value["measures"]["UDCG"]["per_query"]["q3"] == 0.5
    assert value["warnings"] == [
        "1 of 3 passages have no p_abs or no relevance: they add nothing and count in n",
        "1 questions have no passages: their UDCG is 0.5",
    ]
    full["udcg"] = {"m": value["measures"]["UDCG"]["per_query"][full["example_id"]]}
    # As the authors' code writes it.
    empty["udcg"] = {"m": 0.0}
    path.write_text(json.dumps([full, empty]))
    done = call("udcg", "measure", path, "--empty-as-zero", "--json", "--per-query")
    value = json.loads(done.stdout)
    assert value["measures"]["UDCG"]["per_query"]["q3"] == 0.0
    assert len(value["warnings"]) == 2, value["warnings"]


def test_fit_and_use_weights(call: Call, scored: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.json"
    done = call("udcg", "fit", scored, "-o", weights, "--l2", 0.01, "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["k"], value["questions"], len(value["alpha"])) == (2, 40, 2)
    assert value["alpha"][0] > abs(value["alpha"][1]), "the first passage makes the answer"
    assert value["held_out"]["spearman"] > 0.5

    done = call("udcg", "fit", scored, "-o", weights, "--l2", 0.01)
    assert done.returncode == 0
    assert "practical" in done.stdout

    done = call("udcg", "check", scored, "--learned", weights, "-m", "RR@2", "--json")
    assert done.returncode == 0, done.stderr
    measures = json.loads(done.stdout)["measures"]
    assert list(measures) == ["UDCG@2", "log2_utility@2", "RR@2", "UDCG_learned@2"]
    assert measures["UDCG_learned@2"]["spearman"] > measures["UDCG@2"]["spearman"] > 0
    low, high = measures["UDCG@2"]["ci95"]
    assert low < measures["UDCG@2"]["spearman"] < high

    done = call("udcg", "measure", scored, "--learned", weights, "-k", 2, "--per-query")
    assert done.returncode == 0
    assert "UDCG_learned@2" in done.stdout
    done = call("udcg", "measure", scored, "--learned", weights, "-k", 3)
    assert done.returncode == 2
    assert "these weights are for depth 2 only, not for 3" in done.stderr


def test_somebody_elses_grades(call: Call, scored: Path) -> None:
    done = call("udcg", "check", scored, "--target", "graded")
    assert done.returncode == 0, done.stderr
    assert "graded 0.5000, 25.0% abstained" in done.stderr
    assert "40 questions, against graded" in done.stdout
    done = call("udcg", "check", scored, "--target", "exact_match")
    assert done.returncode == 5
    assert "no question has 'exact_match' of m: its answers have abstained, f1, graded" in (
        done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("measure", "scored.json", "--model", "other"), 5, "no p_abs of 'other'; it has m"),
        (("measure", "scored.json", "-k", "0"), 2, "depth must be at least 1"),
        (("measure", "scored.json", "-k", "1", "-k", "2", "-o", "x.json"), 2, "give one depth"),
        (("measure", "none.json"), 4, "no such file"),
        (("measure", "."), 5, "error: . is a folder"),
        (("measure", "scored.json", "--learned", "."), 5, "error: . is a folder"),
        (("answer", "bare.json", "--model", "m", "-o", "x.json"), 5, "no question has gold"),
        (("fit", "bare.json", "-o", "x.json"), 5, "no question has 'f1' of m: it has no answers"),
        (("score", "scored.json", "--model", "nowhere", "-o", "x.json"), 4, "nowhere"),
        (("score", "scored.json", "--model", "m", "-o", "."), 5, "it is a folder"),
    ],
)
def test_refusals(
    arguments: tuple[str, ...], code: int, message: str, call: Call, scored: Path, tmp_path: Path
) -> None:
    bare = question(2)
    del bare["answers"], bare["generated"]
    (tmp_path / "bare.json").write_text(json.dumps([bare]))
    done = call("udcg", *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert not (tmp_path / "x.json").exists()


def test_the_mean_has_an_interval(call: Call, scored: Path) -> None:
    done = call("udcg", "measure", scored, "-k", 2, "--per-query", "--json")
    found = json.loads(done.stdout)["measures"]["UDCG@2"]
    values = list(found["per_query"].values())
    assert found["value"] == pytest.approx(statistics.fmean(values))
    # Forty values: near the normal approximation.
    half = 1.96 * statistics.pstdev(values) / math.sqrt(len(values))
    low, high = found["ci95"]
    assert low == pytest.approx(found["value"] - half, abs=half / 5)
    assert high == pytest.approx(found["value"] + half, abs=half / 5)
    assert f"[{low:.3f}, {high:.3f}]" in call("udcg", "measure", scored, "-k", 2).stdout


def test_two_readers_have_to_be_told_apart(call: Call, tmp_path: Path) -> None:
    one = question(2)
    one["passages"][0]["models_info"]["n"] = {"no_res_prob": 0.25}
    path = tmp_path / "in.json"
    path.write_text(json.dumps([one]))
    done = call("udcg", "measure", path)
    assert done.returncode == 2
    assert "has p_abs of m, n; choose one with --model" in done.stderr
    done = call("udcg", "measure", path, "--model", "n", "-k", 1, "--json")
    assert json.loads(done.stdout)["measures"]["UDCG@1"]["value"] == pytest.approx(sigmoid(0.75))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"query_id": "q1"}, "no field 'answer'"),
        ({"answers": ["x"]}, "no field 'query_id'"),
        ({"query_id": "q1", "answers": "x"}, "'answers' must be a list of texts"),
        ({"query_id": "q1", "answer": ""}, "the field 'answer' is empty"),
    ],
)
def test_bad_gold_answers_are_named(
    line: dict[str, Any], message: str, call: Call, collection: Path, tmp_path: Path
) -> None:
    golds = tmp_path / "golds.jsonl"
    golds.write_text(json.dumps(line) + "\n")
    done = call("udcg", "prepare", collection, "all", "-o", "x.json", "--answers", golds)
    assert done.returncode == 5
    assert f"{golds}:1: " in done.stderr
    assert message in done.stderr


def test_labels_and_levels_decide_what_is_relevant(
    call: Call, collection: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("q1 0 d0 0\nq1 0 d1 2\nq1 0 d10 3\nq2 0 d11 1\n")
    out = tmp_path / "lists.json"
    done = call(
        "udcg", "prepare", collection, "all", "-o", out, "--depth", 3, "--qrels", labels,
        "--relevance-level", 3,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = json.loads(out.read_text())
    assert [p["is_relevant"] for p in first["passages"]] == [False, False, True]
    assert [p["is_relevant"] for p in second["passages"]] == [False, False, False]
    assert "3 of 6 passages are not judged: irrelevant" in done.stderr
    # With 0 what is not judged would be relevant.
    done = call("udcg", "prepare", collection, "all", "-o", out, "--relevance-level", 0)
    assert (done.returncode, "at least 1" in done.stderr) == (2, True)
    labels.write_text("q9 0 d0 1\n")
    done = call("udcg", "prepare", collection, "all", "-o", out, "--qrels", labels)
    assert (done.returncode, f"{labels}: no query of" in done.stderr) == (5, True)
