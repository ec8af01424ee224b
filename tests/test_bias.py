"""Bias reports: the statistics against planted biases, and the command."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ranklens import AttentionReranker, Document, Query
from ranklens.data.errors import InvalidInputError
from ranklens.rerank.bias import (
    Reading,
    bias_report,
    gold_above_longest,
    kendall_tau,
    read_orders,
    short_gold,
    spearman,
)

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def planted(
    score: Callable[[float, int, int], float], queries: int = 30, depth: int = 10
) -> list[Reading]:
    """Make readings whose scores follow from relevance, slot and length."""
    source = random.Random(0)
    readings = []
    for query in range(queries):
        relevance = [source.gauss(0, 1) for _ in range(depth)]
        lengths = tuple(source.randint(10, 100) for _ in range(depth))
        shuffled = []
        for _ in range(5):
            order = tuple(source.sample(range(depth), depth))
            slots = [order.index(i) for i in range(depth)]
            scores = tuple(map(score, relevance, slots, lengths))
            shuffled.append((order, scores))
        own = tuple(score(r, i, n) for i, (r, n) in enumerate(zip(relevance, lengths, strict=True)))
        readings.append(Reading(f"q{query}", lengths, own, None, tuple(shuffled)))
    return readings


def test_scores_without_bias_report_none() -> None:
    report = bias_report(planted(lambda relevance, slot, length: relevance))
    assert report.tau.mean == 1
    assert report.top_stays.mean == 1
    assert report.wobble.mean == pytest.approx(0, abs=1e-12)
    assert report.slot.mean is not None
    assert abs(report.slot.mean) < 0.1
    assert all(abs(slot.mean or 0) < 0.3 for slot in report.slot_z)
    assert report.length.mean is not None
    assert abs(report.length.mean) < 0.2


def test_a_planted_slot_bias_is_found() -> None:
    report = bias_report(planted(lambda relevance, slot, length: relevance + 0.5 * slot))
    means = [slot.mean or 0.0 for slot in report.slot_z]
    assert means[0] < -0.8
    assert means[-1] > 0.8
    assert (report.slot.mean or 0) > 0.6
    assert (report.tau.mean or 1) < 0.6
    assert (report.wobble.mean or 0) > 0.4
    assert [slot.queries for slot in report.slot_z] == [30] * 10


def test_a_bias_for_the_last_slot_alone_shows_in_that_slot() -> None:
    report = bias_report(planted(lambda relevance, slot, length: relevance + 3 * (slot == 9)))
    means = [slot.mean or 0.0 for slot in report.slot_z]
    assert means[9] > 1
    assert max(means[:9]) < 0.2


def test_a_planted_length_bias_is_found() -> None:
    report = bias_report(planted(lambda relevance, slot, length: relevance + length / 20))
    assert (report.length.mean or 0) > 0.6
    assert report.length.error is not None
    assert report.length.error < 0.1


def test_queries_of_different_depths_and_constant_scores() -> None:
    flat = Reading("q", (3, 4), (1.0, 1.0), None, (((0, 1), (1.0, 1.0)), ((1, 0), (1.0, 1.0))))
    report = bias_report([flat, *planted(lambda relevance, slot, length: relevance, queries=2)])
    assert report.slot_z[0].queries == 3
    assert report.slot_z[5].queries == 2
    assert (report.tau.queries, report.slot.queries) == (2, 2), "ties all over have no tau"
    with pytest.raises(InvalidInputError, match="no query"):
        bias_report([])


def test_kendall_by_hand_and_by_its_limits() -> None:
    assert kendall_tau([1, 2, 3, 4], [1, 2, 3, 4]) == 1
    assert kendall_tau([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    # One tie: 2 concordant of 3 pairs, tau-b divides by sqrt(3 · 2).
    assert kendall_tau([1, 2, 3], [1, 1, 2]) == pytest.approx(2 / math.sqrt(6))
    assert kendall_tau([1, 1], [1, 2]) is None
    assert kendall_tau([1], [1]) is None


def test_spearman_is_pearson_of_ranks() -> None:
    assert spearman([1, 10, 100], [2, 3, 4]) == pytest.approx(1)
    for values in itertools.permutations(range(5)):
        distance = sum((i - v) ** 2 for i, v in enumerate(values))
        assert spearman(range(5), values) == pytest.approx(1 - 6 * distance / (5 * 24))
    # Ties take the mean of their ranks: 0, 1.5, 1.5, 3 against 0 … 3.
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert spearman([1, 1], [1, 2]) is None
    assert spearman([], []) is None


def test_the_length_bias_test_by_hand() -> None:
    lengths, relevant = [10, 30, 60, 60], [True, True, False, False]
    assert short_gold(lengths, relevant)
    assert not short_gold([10, 31, 60, 60], relevant)
    assert not short_gold(lengths, [False] * 4)
    assert not short_gold(lengths, [True] * 4)
    assert gold_above_longest([5.0, 1.0, 0.0, 3.0], lengths, relevant) == 0.5
    assert gold_above_longest([5.0, 4.0, 0.0, 3.0], lengths, relevant) == 1
    assert gold_above_longest([3.0, 3.0, 0.0, 3.0], lengths, relevant) == 0


def test_orders_are_read_as_they_stand_in_the_prompt(tiny_model: Callable[..., Path]) -> None:
    reranker = AttentionReranker.from_pretrained(tiny_model())
    documents = [Document(f"d{i}", "a word " * (i + 1)) for i in range(4)]
    query = Query("q", "capital")
    reading = read_orders(reranker, query, documents, permutations=3, seed=1)
    assert read_orders(reranker, query, documents, permutations=3, seed=1) == reading
    own = {r.index: r.score for r in reranker.rank(query, documents)}
    assert list(reading.own) == [own[i] for i in range(4)]
    assert reading.uncalibrated is not None
    assert all(score > 0 for score in reading.uncalibrated), "attention itself is positive"
    assert list(reading.lengths) == sorted(reading.lengths)
    # Best-last is the input reversed: the same documents handed in a shuffle's reverse.
    order, scores = reading.shuffled[0]
    again = reranker.rank(query, [documents[i] for i in reversed(order)])
    by_id = {r.id: r.score for r in again}
    assert list(scores) == pytest.approx([by_id[f"d{i}"] for i in range(4)], abs=1e-9)
    with pytest.raises(InvalidInputError, match="at least 2, got 1"):
        read_orders(reranker, query, documents, permutations=1)


@pytest.fixture
def bias(call: Call, collection: Path, decoder: str) -> Call:
    """Return a function that reports on the collection's candidates."""
    return lambda *more: call(
        "bias", collection, "--candidates", "all", "--reranker", decoder, "--depth", 8, *more
    )


def test_the_command_reports(bias: Call, collection: Path) -> None:
    # Long irrelevant documents, so that the length-bias test has queries.
    docs = collection / "docs.jsonl"
    rows = [json.loads(line) for line in docs.read_text().splitlines()]
    for row in rows:
        row["text"] *= 4 if row["_id"] in ("d8", "d9") else 1
    docs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = bias("--queries", 3, "--permutations", 2, "--depth", 12, "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["queries"], value["permutations"]) == (3, 2)
    assert [slot["queries"] for slot in value["slots"]] == [3] * 12
    assert -1 <= value["kendall_tau"]["mean"] <= 1
    assert value["length_test"]["queries"] > 0
    for kind in ("calibrated", "uncalibrated"):
        assert 0 <= value["length_test"][kind]["GAL"]["mean"] <= 1
        assert 0 <= value["length_test"][kind]["nDCG@10"]["value"] <= 1

    table = bias("--queries", 3, "--permutations", 2, "--depth", 12)
    assert "rankings of two orders" in table.stdout
    assert "length-bias test" in table.stdout


def test_no_query_for_the_length_test_is_said(bias: Call) -> None:
    done = bias("--queries", 1, "--permutations", 2)
    assert done.returncode == 0, done.stderr
    assert "no length-bias test" in done.stderr


def test_numbers_that_make_no_sense(bias: Call) -> None:
    arguments: Sequence[object]
    for arguments in (["--permutations", 1], ["--queries", 0]):
        assert bias(*arguments).returncode == 2
