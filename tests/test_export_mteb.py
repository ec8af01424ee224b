"""MTEB's files are read by mteb itself, and its own evaluation gives the same numbers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement, ScoredDoc
from ranklens.data.runs import Run
from ranklens.eval.export.mteb import (
    MtebModel,
    MtebTask,
    task_scores,
    write_predictions,
    write_results,
)
from ranklens.eval.measures import evaluate

if TYPE_CHECKING:
    from tests.export_fixtures import Files

pytest_plugins = ["cli_fixtures", "export_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]
MODEL, TASK = MtebModel("me/model", "abc1"), MtebTask("SciFact")

# A process of its own, for mteb takes seconds and its imports warn.
CONSUMER = """
import json, sys, types
from pathlib import Path
import mteb
from mteb._evaluators import RetrievalEvaluator
from mteb._evaluators.retrieval_metrics import make_score_dict
from mteb.cache import ResultCache
from mteb.models.model_meta import ModelMeta
from mteb.results import TaskResult

folder = Path(sys.argv[1])
given = json.loads((folder / "given.json").read_text())
cutoffs = (1, 3, 5, 10, 20, 100, 1000)

def scores(ignore):
    run = {query: dict(docs) for query, docs in given["run"].items()}
    names = ("all_scores", "ndcg", "_map", "recall", "precision", "naucs", "mrr", "naucs_mrr",
             "hit_rate")
    found = RetrievalEvaluator.evaluate(None, given["qrels"], run, cutoffs, ignore)
    values = dict(zip(names, found))
    del values["all_scores"]
    return make_score_dict(**values, task_scores={})

[path] = (folder / "results").glob("*/*/SciFact.json")
result = TaskResult.from_disk(path)
strict = TaskResult.from_disk(path, load_historic_data=False)
meta = ModelMeta.model_validate_json_resolved(path.with_name("model_meta.json").read_text())
cached = ResultCache(folder).load_results(tasks=["SciFact"], include_remote=False)
task = mteb.get_task("SciFact")
task.dataset = {"default": {"test": {}}}
task.data_loaded = True
task.convert_to_reranking(folder, top_k=7)
print(json.dumps({
    "plain": scores(False), "ignoring": scores(True),
    "main": result.get_score(), "task": strict.task_name,
    "meta": [meta.name, meta.revision, meta.model_type],
    "cached": [[m.model_name, m.model_revision, [t.main_score for t in m.task_results]]
               for m in cached.model_results],
    "candidates": task.dataset["default"]["test"]["top_ranked"],
    "before": task._previous_results_model_meta,
}))
"""


def write(folder: Path, scores: dict[str, float], **changes: Any) -> Path:
    options = {"dataset_revision": "rev", "languages": ["eng-Latn"], **changes}
    return write_results(folder / "results", MODEL, TASK, scores, **options)


@pytest.fixture(scope="module")
def consumed(files: Files) -> dict[str, Any]:
    """Return what mteb makes of the files, and what it computes of the same run."""
    if importlib.util.find_spec("mteb") is None:
        pytest.skip("mteb is not installed")
    run = files.runs[0]
    first_stage = MtebModel("mteb/baseline-bm25s", "0_1_10")
    write(files.folder, task_scores(files.qrels, run), first_stage=first_stage)
    write_predictions(files.folder, MODEL, TASK, run)
    # mteb itself always has every query of a task in its results.
    lists = {query: {doc.doc_id: doc.score for doc in run.get(query, ())} for query in files.qrels}
    given = {"qrels": {query: dict(grades) for query, grades in files.qrels.items()}, "run": lists}
    (files.folder / "given.json").write_text(json.dumps(given))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CONSUMER, str(files.folder)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("ignoring", [False, True])
def test_mteb_computes_the_same_numbers(
    files: Files, consumed: dict[str, Any], ignoring: bool
) -> None:
    run = files.runs[0]
    ours = task_scores(files.qrels, run, ignore_identical_ids=ignoring)
    theirs = consumed["ignoring" if ignoring else "plain"]
    assert len(ours) == 6 * 7 + 1
    # mteb keeps reciprocal ranks as they are and writes them with 6 digits.
    assert ours == {name: pytest.approx(theirs[name], abs=5.1e-7) for name in ours}


def test_documents_with_the_querys_id_matter_here(consumed: dict[str, Any]) -> None:
    assert consumed["plain"]["ndcg_at_10"] != consumed["ignoring"]["ndcg_at_10"]


def test_mteb_reads_the_results_and_the_model(files: Files, consumed: dict[str, Any]) -> None:
    main = evaluate(files.qrels, files.runs[0], ["nDCG@10"]).measures["nDCG@10"].value
    assert consumed["main"] == pytest.approx(main, abs=5.1e-6)
    assert consumed["task"] == "SciFact"
    assert consumed["meta"] == ["me/model", "abc1", ["cross-encoder"]]
    assert consumed["cached"] == [["me/model", "abc1", [consumed["main"]]]]


def test_mteb_takes_the_run_as_first_stage(files: Files, consumed: dict[str, Any]) -> None:
    assert consumed["before"] == {"model_name": "me/model", "revision": "abc1"}
    assert files.runs[0].tied_queries
    expected = {query_id: docs[:7] for query_id, docs in files.order(0).items()}
    assert consumed["candidates"] == expected


def test_a_results_file_has_the_keys_and_place_of_the_format(tmp_path: Path) -> None:
    path = write(tmp_path, {"ndcg_at_10": 0.5, "map_at_100": 0.25}, main_score="map_at_100")
    assert path == tmp_path / "results" / "me__model" / "abc1" / "SciFact.json"
    value = json.loads(path.read_text())
    assert {"dataset_revision", "task_name", "mteb_version", "scores", "evaluation_time",
            "kg_co2_emissions"} == set(value)  # fmt: skip
    [entry] = value["scores"]["test"]
    assert (entry["main_score"], entry["map_at_100"]) == (0.25, 0.25)
    assert (entry["hf_subset"], entry["languages"]) == ("default", ["eng-Latn"])


def test_other_splits_and_subsets_are_kept(tmp_path: Path) -> None:
    write(tmp_path, {"ndcg_at_10": 0.5})
    options: dict[str, Any] = {"dataset_revision": "rev", "languages": ["deu-Latn"]}
    for split, subset in (("test", "deu"), ("dev", "default")):
        task = MtebTask("SciFact", split, subset)
        write_results(tmp_path / "results", MODEL, task, {"ndcg_at_10": 0.25}, **options)
    path = write(tmp_path, {"ndcg_at_10": 0.75}, overwrite=True)
    scores = json.loads(path.read_text())["scores"]
    found = {
        (split, one["hf_subset"]): one["main_score"] for split in scores for one in scores[split]
    }
    assert found == {("test", "default"): 0.75, ("test", "deu"): 0.25, ("dev", "default"): 0.25}


def test_a_model_meta_that_is_filled_in_stays(tmp_path: Path) -> None:
    meta = write(tmp_path, {"ndcg_at_10": 0.5}).with_name("model_meta.json")
    filled = {**json.loads(meta.read_text()), "n_parameters": 135_000_000}
    meta.write_text(json.dumps(filled))
    write(tmp_path, {"ndcg_at_10": 0.6}, overwrite=True)
    assert json.loads(meta.read_text()) == filled


def test_what_is_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path, {"ndcg_at_10": 0.5})
    before = path.read_bytes()
    with pytest.raises(InvalidInputError, match=r"split 'test', subset 'default' already; --over"):
        write(tmp_path, {"ndcg_at_10": 0.6})
    with pytest.raises(InvalidInputError, match=r"dataset_revision 'rev', not 'other'"):
        write(tmp_path, {"ndcg_at_10": 0.6}, dataset_revision="other", overwrite=True)
    meta = path.with_name("model_meta.json")
    meta.write_text(json.dumps({"name": "me/model", "revision": "older"}))
    with pytest.raises(InvalidInputError, match=r"model 'me/model', revision 'older', not of me"):
        write(tmp_path, {"ndcg_at_10": 0.6}, overwrite=True)
    assert path.read_bytes() == before
    path.write_text(json.dumps({**json.loads(before), "scores": {"test": [1]}}))
    meta.unlink()
    with pytest.raises(InvalidInputError, match="its scores are no lists"):
        write(tmp_path, {"ndcg_at_10": 0.6}, overwrite=True)
    path.write_text("[1, 2")
    with pytest.raises(InvalidInputError, match=r"SciFact.json is there already and is not JSON"):
        write(tmp_path, {"ndcg_at_10": 0.6}, overwrite=True)


def test_predictions_of_another_model_are_not_mixed_in(files: Files, tmp_path: Path) -> None:
    run = files.runs[0]
    path = write_predictions(tmp_path, MODEL, TASK, run)
    write_predictions(tmp_path, MODEL, MtebTask("SciFact", "dev"), run)
    assert sorted(json.loads(path.read_text())["default"]) == ["dev", "test"]
    with pytest.raises(InvalidInputError, match="already"):
        write_predictions(tmp_path, MODEL, TASK, run)
    with pytest.raises(InvalidInputError, match=r"not of me/model 2; choose another folder"):
        write_predictions(tmp_path, MtebModel("me/model", "2"), TASK, run, overwrite=True)


@pytest.mark.parametrize(
    ("name", "revision"),
    [
        ("model", "1"),
        ("../model", "1"),
        ("a/b/c", "1"),
        ("a/..", "1"),
        ("a/b", ""),
        ("a/b", "../1"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(name: str, revision: str) -> None:
    with pytest.raises(UsageError):
        MtebModel(name, revision)


def test_a_task_or_score_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"task '\.\./x'"):
        MtebTask("../x")
    with pytest.raises(UsageError, match="main score 'ndcg@10' is none"):
        write(tmp_path, {"ndcg_at_10": 0.5}, main_score="ndcg@10")
    assert not list(tmp_path.iterdir())


def test_the_two_rules_of_mteb_by_hand() -> None:
    qrels = Qrels([Judgement("a", "a", 1), Judgement("a", "b", 1), Judgement("c", "d", 1)])
    run = Run({"a": [ScoredDoc("a", 3.0), ScoredDoc("x", 2.0), ScoredDoc("b", 1.0)]})
    # Query c is missing and counts as 0.
    plain = task_scores(qrels, run)
    assert (plain["mrr_at_10"], plain["recall_at_3"], plain["hit_rate_at_1"]) == (0.5, 0.5, 0.5)
    ignoring = task_scores(qrels, run, ignore_identical_ids=True)
    assert (ignoring["mrr_at_10"], ignoring["recall_at_3"], ignoring["hit_rate_at_1"]) == (
        0.25, 0.25, 0.0,
    )  # fmt: skip


def test_the_command(call: Call, files: Files, tmp_path: Path) -> None:
    given = ("export", "mteb", files.qrels_path, files.paths[1], "--task", "SciFact")
    more = ("--model", "me/model@1", "--dataset-revision", "r", "--ignore-identical-ids", "--json")
    done = call(*given, *more)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value == {
        "status": "ok",
        "file": "results/me__model/1/SciFact.json",
        "queries": 30,
    }
    [entry] = json.loads((tmp_path / value["file"]).read_text())["scores"]["test"]
    expected = task_scores(files.qrels, files.runs[1], ignore_identical_ids=True)
    assert {name: entry[name] for name in expected} == expected
    assert "1 of 30 judged queries are missing from run " in done.stderr
    assert call(*given, *more).returncode == 5
    done = call(*given, *more, "--model", "model@1")
    assert (done.returncode, "ORGANISATION/NAME" in done.stderr) == (2, True)
    done = call("export", "mteb-predictions", files.paths[1], "--task", "SciFact",
                "--model", "me/bm25@1", "--out", files.qrels_path / "there")  # fmt: skip
    assert (done.returncode, "cannot write in" in done.stderr) == (5, True)
