"""``ranklens calibrate`` and ``rerank --scale --threshold``: what is kept, what is said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ranklens import read_run
from ranklens.rerank.profile_file import load_profile

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def rerank(call: Call, collection: Path, decoder: str, tmp_path: Path) -> Call:
    """Return a function that reranks the collection's candidates."""
    return lambda *more: call(
        "rerank", collection, "all", "--reranker", decoder, "-o", tmp_path / "out.run", *more
    )


def test_a_threshold_leaves_out_and_says_so(rerank: Call, tmp_path: Path) -> None:
    assert rerank("--depth", 8).returncode == 0
    whole = read_run(tmp_path / "out.run")
    reranked = [doc.score for docs in whole.values() for doc in docs[:8]]
    # Between two scores: the file holds them in single precision.
    threshold = sum(sorted(reranked)[15:17]) / 2
    done = rerank("--depth", 8, "--threshold", threshold, "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    kept = read_run(tmp_path / "out.run")
    for query_id, docs in kept.items():
        expected = [doc.doc_id for doc in whole[query_id][:8] if doc.score >= threshold]
        assert [doc.doc_id for doc in docs] == expected
    count = sum(map(len, kept.values()))
    assert 0 < count < 32
    assert value["dropped"] == 32 - count
    assert value["below_depth"] == 4 * 4
    assert value["empty_queries"] == [q for q in whole if q not in kept]

    told = rerank("--depth", 8, "--threshold", threshold)
    assert f"left out {32 - count} documents that score less and 16 candidates" in told.stderr


def test_a_threshold_that_nothing_reaches_writes_nothing(rerank: Call, tmp_path: Path) -> None:
    done = rerank("--threshold", 1e9)
    assert done.returncode == 5
    assert "no document reaches --threshold 1e+09: the best raw score is" in done.stderr
    assert not (tmp_path / "out.run").exists()


@pytest.mark.parametrize("scale", ["softmax", "z"])
def test_what_was_not_scored_has_no_score_on_a_scale(
    rerank: Call, tmp_path: Path, scale: str
) -> None:
    assert rerank("--depth", 8).returncode == 0
    raw = read_run(tmp_path / "out.run")
    done = rerank("--depth", 8, "--scale", scale)
    assert done.returncode == 0, done.stderr
    assert f"16 candidates below the depth have no {scale} score" in done.stderr
    for query_id, docs in read_run(tmp_path / "out.run").items():
        assert [doc.doc_id for doc in docs] == [doc.doc_id for doc in raw[query_id][:8]]


@pytest.mark.parametrize("scale", ["softmax", "z"])
def test_a_scale_keeps_the_order(rerank: Call, tmp_path: Path, scale: str) -> None:
    rerank()
    raw = read_run(tmp_path / "out.run")
    rerank("--scale", scale)
    scaled = read_run(tmp_path / "out.run")
    for query_id, docs in raw.items():
        assert [doc.doc_id for doc in docs] == [doc.doc_id for doc in scaled[query_id]]
        if scale == "softmax":
            assert sum(doc.score for doc in scaled[query_id]) == pytest.approx(1, abs=1e-4)
    assert scaled["q1"] != raw["q1"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--scale", "logit"], 2, "unknown scale 'logit'; choose raw, softmax, z, probability"),
        (["--scale", "probability"], 5, "has no score_map"),
        (["--threshold", "nan"], 2, "--threshold must be a number"),
    ],
)
def test_scales_and_thresholds_that_do_not_exist(
    rerank: Call, arguments: list[str], code: int, message: str
) -> None:
    done = rerank(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "loading" not in done.stderr, "refused before the work"


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibrate_then_rerank_by_probability(
    call: Call, long_collection: Path, decoder: str, tmp_path: Path, method: str
) -> None:
    model = decoder.partition(":")[2]
    made = tmp_path / "made.json"
    done = call(
        "calibrate", long_collection, "--candidates", "all", "--model", model, "--method", method,
        "--depth", 12, "--limit", 10, "-o", made, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    score_map = load_profile(made).score_map
    assert score_map is not None
    assert score_map.method == method
    made_with = score_map.fitted_on
    assert made_with is not None
    assert (made_with.queries, made_with.documents, made_with.relevant) == (10, 120, 20)
    assert made_with.depth == 12
    assert value["held_out"]["base_brier"] == pytest.approx(20 / 120 * 100 / 120)
    assert value["held_out"]["brier"] == made_with.brier
    assert sum(b["count"] for b in value["held_out"]["bins"]) == 120

    done = call(
        "rerank", long_collection, "all", "--reranker", decoder, "--profile", made, "--scale",
        "probability", "--limit", 3, "--depth", 10, "-o", tmp_path / "out.run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fitted at depth 12: at depth 10" in done.stderr
    for docs in read_run(tmp_path / "out.run").values():
        # Equal probabilities are told apart in the file by the least that single precision can.
        assert all(-1e-6 <= doc.score <= 1 for doc in docs[:10])


def test_calibrate_refuses_what_cannot_be_fitted(
    call: Call, collection: Path, decoder: str, tmp_path: Path
) -> None:
    model = decoder.partition(":")[2]
    fit = ["calibrate", collection, "--candidates", "all", "--model", model, "-o",
           tmp_path / "x.json"]  # fmt: skip
    assert "choose platt or isotonic" in call(*fit, "--method", "beta").stderr
    assert "must be raw or z" in call(*fit, "--of", "logit").stderr
    few = call(*fit)
    assert few.returncode == 5
    assert "4 queries cannot be held out in 5 folds" in few.stderr
    assert "loading" not in few.stderr, "known before the work"
    assert not (tmp_path / "x.json").exists()
