"""BEIR's table, the hub's YAML, LaTeX, ir_metadata, diffir's weights and normalised runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ranklens.cli.latex_table import latex_table
from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement, ScoredDoc
from ranklens.data.runs import Run, read_run
from ranklens.eval.export.beir import CQADUPSTACK, SETS, beir_table
from ranklens.eval.export.diffir import diffir_weights
from ranklens.eval.export.huggingface import eval_result

if TYPE_CHECKING:
    from tests.export_fixtures import Files

pytest_plugins = ["cli_fixtures", "export_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def one_query(rank: int) -> tuple[Qrels, Run]:
    """Return judgements and a run whose only relevant document stands at a rank (from 1)."""
    docs = [ScoredDoc("rel" if n == rank else f"d{n}", -float(n)) for n in range(1, 21)]
    return Qrels([Judgement("q", "rel", 1)]), Run({"q": docs})


def test_the_mean_of_beir_is_over_the_sets_that_are_there() -> None:
    table = beir_table({"scifact": one_query(1), "fiqa": one_query(3)})
    assert list(table.rows) == list(SETS)
    assert len(SETS) == 18
    assert table.rows["scifact"] == {"nDCG@10": 1.0, "R@100": 1.0}
    # The relevant document at rank 3 gains 1 / log2(4).
    assert table.rows["fiqa"] == {"nDCG@10": 0.5, "R@100": 1.0}
    assert table.rows["nq"] is None
    assert (table.there, table.mean) == (2, {"nDCG@10": 0.75, "R@100": 1.0})


def test_cqadupstack_is_the_mean_of_all_its_parts_or_missing() -> None:
    parts = {f"cqadupstack/{part}": one_query(1) for part in CQADUPSTACK}
    parts["cqadupstack/tex"] = one_query(15)
    table = beir_table(parts)
    assert table.rows["cqadupstack"] == {"nDCG@10": pytest.approx(11 / 12), "R@100": 1.0}
    assert table.there == 1
    del parts["cqadupstack/unix"]
    table = beir_table(parts)
    assert (table.rows["cqadupstack"], table.there, table.mean) == (None, 0, {})
    assert table.warnings == ("cqadupstack is missing: 11 of its 12 parts are there",)


def test_beir_leaves_out_documents_with_the_querys_id() -> None:
    qrels = Qrels([Judgement("q", "rel", 1)])
    run = Run({"q": [ScoredDoc("q", 2.0), ScoredDoc("rel", 1.0)]})
    row = beir_table({"arguana": (qrels, run)}).rows["arguana"]
    assert row == {"nDCG@10": 1.0, "R@100": 1.0}


def test_beir_as_table_and_as_json(call: Call, files: Files) -> None:
    given = ("export", "beir", "scifact", files.qrels_path, files.paths[0])
    more = ("fiqa", files.qrels_path, files.paths[1])
    value = json.loads(call(*given, *more, "--json").stdout)
    assert value["results"]["nq"] is None
    found = [value["results"][name]["nDCG@10"] for name in ("scifact", "fiqa")]
    assert value["mean"]["sets"] == 2
    assert value["mean"]["measures"]["nDCG@10"] == pytest.approx(sum(found) / 2)
    table = call(*given, *more).stdout
    rows = [line.split() for line in table.splitlines()]
    assert ["nq", "missing", "missing"] in rows
    assert ["scifact", f"{found[0]:.4f}"] in [row[:2] for row in rows]
    assert "mean of 2 of 18 sets" in table
    for words, said in (
        (["scifact", files.qrels_path], "three words"),
        (["msmarco", files.qrels_path, files.paths[0]], "'msmarco' is no set of BEIR"),
        (["cqadupstack", files.qrels_path, files.paths[0]], "cqadupstack/android"),
    ):
        done = call("export", "beir", *words)
        assert (done.returncode, said in done.stderr) == (2, True)


def test_the_hub_reads_the_entry(call: Call, files: Files, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the extra llm is not installed")
    yaml = pytest.importorskip("yaml", reason="the extra export is not installed")
    path = tmp_path / ".eval_results" / "nfcorpus.yaml"
    given = ("export", "hf", files.qrels_path, files.paths[0], "--dataset", "org/set")
    options = ("--task-id", "a: #b", "--date", "2026-01-31", "--source-url", "https://example.org",
               "--source-name", "Logs", "--revision", "1e5", "-o", path)  # fmt: skip
    done = call(*given, *options)
    assert done.returncode == 0, done.stderr
    data = yaml.safe_load(path.read_text())
    [entry] = hub.parse_eval_result_entries(data)
    evaluated = call("evaluate", files.qrels_path, files.paths[0], "-m", "nDCG@10", "--json")
    value = json.loads(evaluated.stdout)["results"][0]["measures"]["nDCG@10"]["value"]
    assert entry == hub.EvalResultEntry(
        dataset_id="org/set", task_id="a: #b", value=value, dataset_revision="1e5",
        date="2026-01-31", source_url="https://example.org", source_name="Logs", notes="nDCG@10",
    )  # fmt: skip
    assert hub.eval_result_entries_to_yaml([entry]) == data
    before = path.read_bytes()
    done = call(*given, *options, "-m", "AP")
    assert (done.returncode, "--overwrite replaces it" in done.stderr) == (5, True)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "set"}, "ORGANISATION/NAME"),
        ({"task": " "}, "task id"),
        ({"date": "31.1.2026"}, "ISO 8601"),
        ({"source_name": "Logs"}, "needs its address"),
    ],
)
def test_entries_that_the_hub_refuses(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        eval_result(**{"dataset": "org/set", "task": "t", "value": 0.5, **changes})


def test_without_pyyaml_nothing_is_written(
    call: Call, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "yaml" else found(name, *a)
    )
    done = call("export", "hf", files.qrels_path, files.paths[0], "--dataset", "a/b",
                "--task-id", "t", "-o", tmp_path / "t.yaml")  # fmt: skip
    assert done.returncode == 3
    assert "yaml is not installed: pip install 'ranklens[export]'" in done.stderr
    assert not (tmp_path / "t.yaml").exists()


def test_the_latex_table_to_the_letter() -> None:
    rows = {
        "bm25_k1=0.9 & 50%": {"nDCG@10": 0.50004, "AP": 0.25},
        "b": {"nDCG@10": 0.5, "AP": 0.1},
    }
    assert latex_table(rows, ["nDCG@10", "AP"]).splitlines() == [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"Run & nDCG@10 & AP \\",
        r"\midrule",
        # Equal as printed, so both are bold.
        r"bm25\_k1=0.9 \& 50\% & \textbf{0.5000} & \textbf{0.2500} \\",
        r"b & \textbf{0.5000} & 0.1000 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_the_best_of_a_measure_that_is_better_when_lower_is_the_lowest() -> None:
    shown = latex_table({"a": {"LastRel": 7.0}, "b": {"LastRel": 30.0}}, ["LastRel"], 1)
    assert r"a & \textbf{7.0}" in shown
    assert r"b & 30.0" in shown


def test_latex_of_runs_is_printed_or_written(call: Call, files: Files, tmp_path: Path) -> None:
    given = ("export", "latex", files.qrels_path, *files.paths, "-m", "AP", "--digits", 3)
    done = call(*given)
    evaluated = json.loads(
        call("evaluate", files.qrels_path, *files.paths, "-m", "AP", "--json").stdout
    )
    second = evaluated["results"][1]["measures"]["AP"]["value"]
    assert rf"second & \textbf{{{second:.3f}}} \\" in done.stdout
    written = call(*given, "-o", tmp_path / "t.tex")
    assert (written.returncode, written.stdout) == (0, "")
    assert (tmp_path / "t.tex").read_text() == done.stdout


def test_ir_metadata_has_what_longeval_asks_for(call: Call, files: Files) -> None:
    yaml = pytest.importorskip("yaml", reason="the extra export is not installed")
    run = files.paths[0]
    before = run.read_bytes()
    given = ("export", "ir-metadata", run, "--team", "owls: 1", "--repository", "example.org/x")
    done = call(*given, "--goal", "# rerank", "--collection", "SciFact", "--json")
    assert done.returncode == 0, done.stderr
    path = run.with_name("first.run.ir_metadata.yaml")
    assert json.loads(done.stdout) == {"status": "ok", "file": str(path)}
    value = yaml.safe_load(path.read_text())
    assert value["tag"] == "first"
    assert value["actor"]["team"] == "owls: 1"
    assert value["research goal"]["description"] == "# rerank"
    assert value["implementation"]["source"]["repository"] == "example.org/x"
    assert value["data"]["test collection"]["name"] == "SciFact"
    libraries = value["platform"]["software"]["libraries"]["python"]
    assert {f"ranklens=={version('ranklens')}", f"numpy=={version('numpy')}"} <= set(libraries)
    assert not any(name.startswith(("pytest", "ruff")) for name in libraries)
    assert value["platform"]["hardware"]["cpu"]["number of cores"] >= 1
    # Most readers of runs fail on comments: the run stays as it is.
    assert run.read_bytes() == before
    assert call(*given, "--goal", "").returncode == 2
    # What has been filled in by hand is not lost to a call that does not name it.
    path.write_text("by hand")
    done = call(*given, "--goal", "again")
    assert (done.returncode, path.read_text()) == (5, "by hand")
    assert "name it by --output" in done.stderr
    assert call(*given, "--goal", "again", "-o", path).returncode == 0
    assert "description: again" in path.read_text()


def test_weights_of_an_explanation(call: Call, decoder: str, tmp_path: Path) -> None:
    texts = ["Owls eat mice 🙂.", "Trains run on time."]
    explained = call("explain", "what do owls eat", *texts, "--reranker", decoder,
                     "--draws", 0, "--json")  # fmt: skip
    assert explained.returncode == 0, explained.stderr
    (tmp_path / "one.json").write_text(explained.stdout)
    given = ("export", "diffir", "one.json")
    done = call(*given, "-o", "a.run.diffir", "--json")
    assert json.loads(done.stdout)["documents"] == 2
    [line] = (tmp_path / "a.run.diffir").read_text().splitlines()
    weights = json.loads(line)["query"]
    assert set(weights) == {"0", "1"}
    tokens = {d["id"]: d["tokens"] for d in json.loads(explained.stdout)["documents"]}
    for doc_id, fields in weights.items():
        assert set(fields) <= {"text"}
        for start, end, weight in fields.get("text", []):
            assert 0 <= start < end <= len(texts[int(doc_id)])
            assert weight > 0
        total = sum(
            t["contribution"] for t in tokens[doc_id] if t["field"] and t["contribution"] > 0
        )
        assert sum(weight for *_, weight in fields.get("text", [])) == pytest.approx(total)
    assert any(weights[doc]["text"] for doc in weights if weights[doc])
    done = call(*given, "one.json", "-o", "b.diffir")
    assert (done.returncode, "has an explanation already" in done.stderr) == (5, True)
    assert not (tmp_path / "b.diffir").exists()


def test_tokens_of_the_same_characters_count_together() -> None:
    def token(start: int, contribution: float, field: str | None = "text") -> dict[str, Any]:
        return {"field": field, "start": start, "end": start + 2, "contribution": contribution}

    tokens = [token(4, 0.5), token(0, 1.0), token(0, 0.25), token(8, -1.0), token(0, 2.0, "title"),
              token(0, 3.0, None)]  # fmt: skip
    given = {"query": {"id": "q"}, "documents": [{"id": "d", "tokens": tokens}]}
    expected = {"title": [(0, 2, 2.0)], "text": [(0, 2, 1.25), (4, 6, 0.5)]}
    assert diffir_weights(given) == ("q", {"d": expected})
    broken: Any
    for broken in ({}, {"query": {"id": "q"}, "documents": [{"id": "d"}]}, []):
        with pytest.raises(InvalidInputError, match="no explanation"):
            diffir_weights(broken)


def test_a_normalised_run_ranks_alike_everywhere(call: Call, files: Files, tmp_path: Path) -> None:
    import ir_measures

    commented = tmp_path / "in.run"
    text = "# ir_metadata.start\n# tag: x\n# ir_metadata.end\n" + files.paths[0].read_text()
    commented.write_text(text)
    done = call("export", "run", commented, "-o", "out.run", "--tag", "mine")
    assert done.returncode == 0, done.stderr
    run = read_run(tmp_path / "out.run")
    assert (run.tag, run.tied_queries) == ("mine", ())
    assert files.runs[0].tied_queries
    for query_id, docs in files.order(0).items():
        assert [doc.doc_id for doc in run[query_id]] == docs
        scores = np.array([doc.score for doc in run[query_id]], dtype=np.float32)
        assert all(high > low for high, low in pairwise(scores))
    rows = [line.split() for line in (tmp_path / "out.run").read_text().splitlines()]
    assert [int(row[3]) for row in rows if row[0] == "q3"] == list(range(1, 122))
    # Another reader, which fails on comments and breaks ties its own way for RR@10.
    measures = [ir_measures.parse_measure(name) for name in ("RR@10", "RR", "nDCG@10")]
    theirs = ir_measures.calc_aggregate(
        measures,
        list(ir_measures.read_trec_qrels(str(files.qrels_path))),
        list(ir_measures.read_trec_run(str(tmp_path / "out.run"))),
    )
    names = [word for name in ("RR@10", "RR", "nDCG@10") for word in ("-m", name)]
    done = call("evaluate", files.qrels_path, tmp_path / "out.run", *names, "--json")
    ours = json.loads(done.stdout)["results"][0]["measures"]
    assert {str(m): v for m, v in theirs.items()} == {
        name: pytest.approx(ours[name]["value"]) for name in ours
    }
    # And the values are those that the run had before.
    done = call("evaluate", files.qrels_path, files.paths[0], *names, "--json")
    assert json.loads(done.stdout)["results"][0]["measures"] == ours


@pytest.mark.parametrize(
    "words", [[], ["mteb"], ["mteb-predictions"], ["beir"], ["latex"], ["hf"], ["run"], ["ranx"],
              ["ranx-run"], ["ranx-qrels"], ["ir-metadata"], ["diffir"]], ids=" ".join
)  # fmt: skip
def test_every_help_has_an_example(call: Call, words: list[str]) -> None:
    done = call("export", *words, "--help")
    assert f"Example: ranklens {' '.join(['export', *words])}" in done.stdout


def test_a_place_that_cannot_be_written_is_named(call: Call, files: Files, tmp_path: Path) -> None:
    for words in (["run", files.paths[0]], ["ranx-run", files.paths[0]],
                  ["latex", files.qrels_path, files.paths[0]]):  # fmt: skip
        done = call("export", *words, "-o", tmp_path)
        assert (done.returncode, f"cannot write {tmp_path}" in done.stderr) == (5, True)
