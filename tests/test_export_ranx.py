"""What is written for ranx, read by ranx and compared with what ranx computes and saves itself."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.eval.export.ranx import ranx_measure, ranx_qrels, ranx_report, ranx_run

if TYPE_CHECKING:
    from tests.export_fixtures import Files

pytest_plugins = ["cli_fixtures", "export_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]
MEASURES = ["nDCG@10", "AP(rel=2)", "RR@10", "R@100", "P@5", "Success@3", "Rprec", "AP@20"]

# A process of its own without compilation, which takes a minute at first.
CONSUMER = """
import json, sys
from pathlib import Path
import ranx

folder = Path(sys.argv[1])
qrels = ranx.Qrels.from_file(str(folder / "qrels.json"))
runs = [ranx.Run.from_file(str(folder / f"{name}.json"), name=name) for name in ("first", "second")]
ours = json.loads((folder / "report.json").read_text())
report = ranx.compare(qrels, runs, ours["metrics"], stat_test="student", make_comparable=True)
report.save(folder / "theirs.json")
orders = {run.name: {q: list(docs) for q, docs in run.to_dict().items()} for run in runs}
(folder / "orders.json").write_text(json.dumps(orders))
"""


@pytest.fixture(scope="module")
def written(files: Files) -> Files:
    """Return the files, with those for ranx beside them and what ranx makes of them."""
    if importlib.util.find_spec("ranx") is None:
        pytest.skip("the extra hybrid is not installed")
    runs = dict(zip(("first", "second"), files.runs, strict=True))
    values: dict[str, Any] = {
        "report": ranx_report(files.qrels, runs, MEASURES),
        "qrels": ranx_qrels(files.qrels),
        **{name: ranx_run(run) for name, run in runs.items()},
    }
    for name, value in values.items():
        (files.folder / f"{name}.json").write_text(json.dumps(value))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CONSUMER, str(files.folder)],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return files


def test_the_report_is_the_one_that_ranx_saves(written: Files) -> None:
    ours = json.loads((written.folder / "report.json").read_text())
    theirs = json.loads((written.folder / "theirs.json").read_text())
    assert list(ours) == list(theirs)
    for key in ("stat_test", "metrics", "model_names"):
        assert ours[key] == theirs[key]
    for one, other in (("first", "second"), ("second", "first")):
        assert ours[one]["scores"] == pytest.approx(theirs[one]["scores"], abs=1e-12)
        ours_p, theirs_p = (report[one]["comparisons"][other] for report in (ours, theirs))
        assert ours_p == pytest.approx(theirs_p, abs=1e-12)
        assert ours[one]["win_tie_loss"] == theirs[one]["win_tie_loss"]
    # One of the runs is better, and ranx's file says by how many queries.
    counts = ours["second"]["win_tie_loss"]["first"]["ndcg@10"]
    assert counts["W"] > counts["L"]
    assert sum(counts.values()) == 30


def test_ranx_has_trec_evals_order_where_scores_tie(written: Files) -> None:
    orders = json.loads((written.folder / "orders.json").read_text())
    for which, run in enumerate(written.runs):
        assert run.tied_queries
        # make_comparable gives a query that the run lacks an empty list.
        assert orders[run.tag] == {**written.order(which), "q29": []}


def test_runs_without_a_difference(files: Files) -> None:
    run = files.runs[0]
    report = ranx_report(files.qrels, {"a": run, "b": run}, ["AP"])
    assert report["a"]["comparisons"] == {"b": {"map": 1.0}}
    assert report["a"]["win_tie_loss"] == {"b": {"map": {"W": 0, "T": 30, "L": 0}}}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("nDCG", "ndcg"), ("AP(rel=2)@100", "map@100-l2"), ("P(rel=1)@5", "precision@5")],
)
def test_names_of_measures(ours: str, theirs: str) -> None:
    assert ranx_measure(ours) == theirs


@pytest.mark.parametrize("name", ["nDCG(rel=2)@10", "Judged@10", "ndcg@10", "nDCG(dcg='exp')@10"])
def test_measures_that_ranx_has_not_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="ranx has no measure"):
        ranx_measure(name)


def test_a_run_may_not_have_the_name_of_a_key(files: Files) -> None:
    with pytest.raises(InvalidInputError, match="a run is named 'metrics'"):
        ranx_report(files.qrels, {"metrics": files.runs[0], "b": files.runs[1]}, ["AP"])


def test_the_commands(call: Call, files: Files) -> None:
    done = call("export", "ranx", files.qrels_path, *files.paths, "-o", "r.json", "-m", "nDCG@10")
    assert done.returncode == 0
    assert done.stderr.endswith("\nwrote r.json: 2 runs, 30 queries\n")
    assert "warning: first: 1 of 30 judged queries are missing from run 'first'" in done.stderr
    done = call("export", "ranx-run", files.paths[0], "-o", "a.json", "--json")
    assert json.loads(done.stdout) == {"status": "ok", "file": "a.json", "queries": 29}
    done = call("export", "ranx-qrels", files.qrels_path, "-o", "q.json")
    assert (done.returncode, done.stderr) == (0, "wrote q.json: 30 queries\n")
    done = call("export", "ranx", files.qrels_path, files.paths[0], "-o", "r.json")
    assert (done.returncode, "two runs" in done.stderr) == (2, True)
    twice = [files.paths[0], files.paths[0]]
    done = call("export", "ranx", files.qrels_path, *twice, "-o", "r.json")
    assert (done.returncode, "is given twice" in done.stderr) == (2, True)
