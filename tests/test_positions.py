"""Attention by slot, the orders made from it, and their commands."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.oracle import FAMILIES, QUERY, TEXTS, Eager, Wording, tiny_folder, write
from transformers import LlamaConfig

from ranklens import AttentionReranker, Document, Query
from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.requests import read_requests
from ranklens.rerank.base import RankedDocument
from ranklens.rerank.positions import (
    PositionProfile,
    attention_sort,
    load_position_profile,
    measure_positions,
    place,
    save_position_profile,
)
from ranklens.rerank.profile_file import load_profile

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]
SECOND = "which countries border france"
# As attention sorting is specified: the last token, documents as they stand in the list.
LAST = Wording(rows=("last", "end"), best_last=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("chatml", LlamaConfig, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reranker(folder: Path) -> AttentionReranker:
    return AttentionReranker.from_pretrained(
        folder, profile="attention-sorting", device="cpu", dtype="float32"
    )


@pytest.fixture(scope="module")
def eager(folder: Path) -> Eager:
    return Eager(folder)


def directly(eager: Eager, query: str, texts: list[str]) -> list[float]:
    """Return the attention of the last token to each document, mean over layers and heads."""
    prompt = write(eager.tokenizer, FAMILIES["chatml"], LAST, texts, query)
    mass = eager.mass(prompt).mean((0, 1))
    return [float(mass[start:end].sum()) for start, end in prompt.spans]


def made_up(*values: float, **changes: Any) -> PositionProfile:
    profile = PositionProfile(
        model="m", revision=None, profile="attention-sorting", dtype="float32", lists=2,
        documents=len(values), shuffles=1, seed=0, values=values, errors=(0.01,) * len(values),
    )  # fmt: skip
    return dataclasses.replace(profile, **changes)


def ranking(number: int) -> list[RankedDocument]:
    """Return a ranking whose documents do not stand in the list as they are ranked."""
    places = random.Random(number).sample(range(number), number)
    return [RankedDocument(index, f"d{index}", -float(rank)) for rank, index in enumerate(places)]


def test_slots_have_the_attention_of_a_direct_eager_computation(
    reranker: AttentionReranker, eager: Eager
) -> None:
    texts, seed, shuffles = TEXTS[:4], 3, 2
    measured = measure_positions(
        reranker, [(QUERY, texts), (Query("q", SECOND), texts)], seed=seed, shuffles=shuffles
    )
    by_list = []
    for number, query in enumerate((QUERY, SECOND)):
        source = random.Random(f"{seed} {number}")
        orders = [source.sample(range(4), 4) for _ in range(shuffles)]
        read = [directly(eager, query, [texts[i] for i in order]) for order in orders]
        by_list.append(np.mean(read, axis=0))
    np.testing.assert_allclose(measured.values, np.mean(by_list, axis=0), atol=1e-6)
    errors = np.std(by_list, axis=0, ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(np.array(measured.errors, dtype=float), errors, atol=1e-6)
    assert (measured.lists, measured.documents, measured.shuffles, measured.seed) == (2, 4, 2, 3)
    assert measured.profile == "attention-sorting"
    assert 0 < sum(measured.values) < 1, "shares of all attention, the rest is on other tokens"


def test_other_profiles_of_all_heads_measure_their_own_rows(
    folder: Path, reranker: AttentionReranker
) -> None:
    icr = AttentionReranker(reranker.engine, load_profile("icr"))
    one = measure_positions(icr, [(QUERY, TEXTS[:3])])
    assert one.profile == "icr"
    assert one.errors == (None, None, None), "one list has no standard error"
    assert one.basin is None
    assert 0 < sum(one.values) < 1
    assert one.values != measure_positions(reranker, [(QUERY, TEXTS[:3])]).values


def test_measuring_reads_the_first_slots_and_tells_what_is_read(
    reranker: AttentionReranker,
) -> None:
    told: list[int] = []
    lists: list[tuple[str, list[str]]] = [(QUERY, TEXTS), (SECOND, TEXTS[:3])]
    before = [(query, list(texts)) for query, texts in lists]
    measured = measure_positions(reranker, lists, shuffles=2, on_list=told.append, data=["x"])
    assert (measured.documents, told, measured.data) == (3, [6, 6], ("x",))
    assert lists == before
    cut = measure_positions(reranker, [(QUERY, TEXTS[:3]), lists[1]], shuffles=2)
    assert measured.values == cut.values, "what lies behind the slots has no part"


def test_documents_that_are_shortened_are_told(
    reranker: AttentionReranker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(type(reranker.engine), "context", 256)
    texts = ["Paris.", "word " * 300, "Rome."]
    cut = attention_sort(reranker, QUERY, texts, rounds=1).tokens_cut
    assert [bool(tokens) for tokens in cut] == [False, True, False]
    with caplog.at_level(logging.WARNING):
        measure_positions(reranker, [(QUERY, texts)], shuffles=2)
    [record] = caplog.records
    assert record.getMessage() == "2 of 6 documents were shortened to fit"


def test_what_cannot_be_measured_is_refused(reranker: AttentionReranker) -> None:
    two = [(QUERY, TEXTS[:2])]
    cases: list[tuple[list[tuple[str, list[str]]], dict[str, Any], str]] = [
        ([], {}, "no list to measure"),
        ([(QUERY, [])], {}, "no documents"),
        ([(" ", TEXTS)], {}, "query is empty"),
        ([(QUERY, TEXTS[:1])], {}, "slots must be at least 2, got 1"),
        (two, {"slots": 3}, "list 0 has 2 documents, fewer than the 3 slots"),
        (two, {"shuffles": 0}, "shuffles must be at least 1, got 0"),
    ]
    for lists, settings, message in cases:
        with pytest.raises(InvalidInputError, match=message):
            measure_positions(reranker, lists, **settings)
    blocks = load_profile("icr-block")
    shared = dataclasses.replace(
        blocks, layout=dataclasses.replace(blocks.layout, positions="shared")
    )
    chosen = load_profile("icr")
    chosen = dataclasses.replace(
        chosen, signal=dataclasses.replace(chosen.signal, heads={"0-1": 1.0})
    )
    for profile, message in ((shared, "no slots to compare"), (chosen, "of all heads")):
        other = AttentionReranker(reranker.engine, profile)
        with pytest.raises(InvalidInputError, match=f"{message}.*profile='attention-sorting'"):
            measure_positions(other, two)
        with pytest.raises(InvalidInputError, match=message):
            attention_sort(other, QUERY, TEXTS[:2])


def test_a_profile_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    profile = made_up(0.1 + 0.2, 1 / 3, 0.05, revision="abc", data=("a (lists of 3 of bm25)",))
    path = tmp_path / "positions.json"
    save_position_profile(profile, path)
    assert load_position_profile(path) == profile
    alone = dataclasses.replace(profile, lists=1, errors=(None, None, None))
    save_position_profile(alone, path)
    assert load_position_profile(str(path)) == alone


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": [0.1, 0.2]}, "values must have one number for each of 3 slots, got 2"),
        ({"errors": [0.1] * 4}, "errors must have one number for each of 3 slots, got 4"),
        ({"values": [0.1, 0.2, 1.5]}, r"values\[2\] is 1.5, not a share"),
        ({"values": [0.1, -0.2, 0.5]}, r"values\[1\] is -0.2, not a share"),
        ({"values": [0.1, "x", 0.5]}, r"values\[1\] must be float, got 'x'"),
        ({"errors": [0.1, -1, None]}, r"errors\[1\] is -1.0, not a standard error"),
        ({"documents": 1}, "documents must be at least 2: 1"),
        ({"lists": 0}, "lists must be at least 1: 0"),
        ({"lists": "many"}, "lists must be int, got 'many'"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_a_damaged_profile_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "damaged.json"
    value = json.loads(json.dumps(dataclasses.asdict(made_up(0.3, 0.1, 0.2))))
    path.write_text(json.dumps({**value, **change}))
    with pytest.raises(InvalidInputError, match=f"damaged.json: {message}"):
        load_position_profile(path)


def test_what_is_no_profile_at_all_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    for text, message in (
        ("", "p.json:1: not JSON"),
        ("[]", "the position profile must be a JSON object"),
        ("{}", "missing field 'documents'"),
        ('{"lists": 1, "lists": 2}', "key 'lists' occurs twice"),
        ('{"values": [NaN]}', "missing field"),
    ):
        path.write_text(text)
        with pytest.raises(InvalidInputError, match=message):
            load_position_profile(path)
    with pytest.raises(MissingResourceError, match=r"no such file.*nowhere"):
        load_position_profile(tmp_path / "nowhere.json")


def test_a_basin_is_two_ends_above_the_middle_by_more_than_chance() -> None:
    assert made_up(0.3, 0.1, 0.1, 0.2).basin is True
    assert made_up(0.3, 0.1, 0.1, 0.11).basin is False, "0.01 is one standard error"
    assert made_up(0.1, 0.2, 0.2, 0.3).basin is False, "recency alone"
    assert made_up(0.3, 0.1, 0.2, errors=(0.2, 0.2, 0.2)).basin is False
    assert made_up(0.3, 0.1).basin is None


def test_other_lengths_are_interpolated_between_ends_that_stay() -> None:
    profile = made_up(0.4, 0.1, 0.2)
    assert profile.over(3) == [0.4, 0.1, 0.2], "the measured length exactly"
    assert profile.over(5) == pytest.approx([0.4, 0.25, 0.1, 0.15, 0.2])
    assert profile.over(4) == pytest.approx([0.4, 0.2, 0.1 + 0.1 / 3, 0.2])
    assert profile.over(2) == [0.4, 0.2]
    assert profile.over(1) == [statistics.fmean([0.4, 0.1, 0.2])]
    with pytest.raises(InvalidInputError, match="no slot for 0"):
        profile.over(0)
    ten = made_up(*(0.01 * i for i in range(10)))
    for number in range(1, 40):
        assert ten.over(number) == pytest.approx(
            np.interp(np.linspace(0, 9, number) if number > 1 else [4.5], range(10), ten.values)
        )


def test_the_best_document_goes_where_the_model_looks_most() -> None:
    basin = made_up(0.4, 0.1, 0.05, 0.2, 0.3)
    found = ranking(5)
    best = [document.index for document in found]
    # Slots by attention: first, last, last but one, second, middle.
    assert place(found, basin) == [best[0], best[3], best[4], best[2], best[1]]
    assert place(found, made_up(0.1, 0.1, 0.1, 0.1, 0.1)) == best[::-1], "later slots first"
    assert place([], basin) == []
    for number in (1, 2, 3, 7, 23):
        order = place(ranking(number), basin)
        assert sorted(order) == list(range(number))
        assert order[0] == ranking(number)[0].index, "the first slot has most"
        by_rank = [basin.over(number)[order.index(one.index)] for one in ranking(number)]
        assert by_rank == sorted(by_rank, reverse=True)
    assert place(found[:2], basin) == [best[0], best[1]], "a cut ranking keeps its indices"


def test_attention_sorting_is_rounds_of_reading_and_sorting(
    reranker: AttentionReranker, eager: Eager
) -> None:
    order = list(range(len(TEXTS)))[::-1]
    steps = []
    for _ in range(3):
        read = dict(zip(order, directly(eager, QUERY, [TEXTS[i] for i in order]), strict=True))
        order = sorted(order, key=read.__getitem__)
        steps.append((list(order), [read[i] for i in range(len(TEXTS))]))
    for rounds in (1, 2, 3):
        found = attention_sort(reranker, QUERY, TEXTS, rounds=rounds)
        expected, attention = steps[found.rounds - 1]
        assert list(found.order) == expected
        np.testing.assert_allclose(found.attention, attention, atol=1e-6)
        assert found.rounds == rounds or found.settled


def test_attention_sorting_stops_where_nothing_moves_any_more(
    reranker: AttentionReranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[int]] = []

    def by_text(
        reranker: AttentionReranker, query: str, documents: list[Document], order: list[int]
    ) -> tuple[list[float], list[int]]:
        calls.append(list(order))
        return [float(document.text) for document in documents], [0] * len(order)

    monkeypatch.setattr("ranklens.rerank.positions.sorting.slot_attention", by_text)
    found = attention_sort(reranker, QUERY, ["0.3", "0.1", "0.3", "0.2"])
    # Best-last turns the list round first; of the equal ones the later in the prompt stays so.
    assert calls == [[3, 2, 1, 0], [1, 3, 2, 0]]
    assert (found.order, found.rounds, found.settled) == ((1, 3, 2, 0), 2, True)
    assert found.attention == (0.3, 0.1, 0.3, 0.2)
    once = attention_sort(reranker, QUERY, ["0.3", "0.1"], rounds=1)
    assert (once.rounds, once.settled) == (1, True)
    stopped = attention_sort(reranker, QUERY, ["0.1", "0.3"], rounds=1)
    assert (stopped.order, stopped.settled) == ((0, 1), False)
    alone = attention_sort(reranker, QUERY, ["0.7"])
    assert (alone.order, alone.rounds, alone.settled) == ((0,), 1, True)
    with pytest.raises(InvalidInputError, match="rounds must be at least 1, got 0"):
        attention_sort(reranker, QUERY, ["0.1"], rounds=0)
    with pytest.raises(InvalidInputError, match="no documents"):
        attention_sort(reranker, QUERY, [])


def test_the_commands_measure_show_and_order(
    call: Call, collection: Path, folder: Path, tmp_path: Path
) -> None:
    done = call(
        "positions", "measure", collection, "--candidates", "all", "--model", folder,
        "--depth", "6", "--lists", "5", "--device", "cpu", "-o", "p.json", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    profile = load_position_profile("p.json")
    assert said["values"] == list(profile.values)
    assert said["warnings"] == ["4 lists of 6 documents, not the 5 asked for"]
    assert profile.data == ("tiny (lists of 6 of all)",)
    assert str(tmp_path) not in Path("p.json").read_text(), "where a folder lies is not recorded"
    assert sorted(said["filled"]) == [1, 2, 3, 4, 5, 6]

    shown = call("positions", "show", "p.json")
    assert shown.returncode == 0
    assert "attention by slot, 4 lists of 6" in shown.stdout
    assert f"{profile.values[5]:.4f}" in shown.stdout
    assert json.loads(call("positions", "show", "p.json", "--json").stdout)["basin"] in (
        True,
        False,
    )

    ordered = call("positions", "order", collection, "all", "-p", "p.json", "-o", "c.jsonl",
                   "--depth", "5")  # fmt: skip
    assert ordered.returncode == 0, ordered.stderr
    assert "wrote c.jsonl: 4 queries, 20 documents" in ordered.stderr
    records = [json.loads(line) for line in Path("c.jsonl").read_text().splitlines()]
    ranks = [candidate["rank"] for candidate in records[0]["candidates"]]
    five = [RankedDocument(rank, f"d{rank}", -float(rank)) for rank in range(1, 6)]
    assert ranks == place(five, profile)
    assert all("score" not in candidate for candidate in records[0]["candidates"])
    # Read back as a collection of requests it is in the same order.
    read = [request for _, request in read_requests(Path("c.jsonl"))]
    assert [document.id for document in read[0].documents] == [
        candidate["docid"] for candidate in records[0]["candidates"]
    ]
    assert read[0].query.text == "bake bread"


def test_the_command_that_sorts_by_attention(call: Call, collection: Path, folder: Path) -> None:
    done = call(
        "positions", "sort", collection, "all", "--model", folder, "--depth", "4", "--limit", "1",
        "--rounds", "2", "--device", "cpu", "-o", "sorted.jsonl", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["queries"] == 1
    (record,) = [json.loads(line) for line in Path("sorted.jsonl").read_text().splitlines()]
    texts = {candidate["rank"] - 1: candidate["doc"]["text"] for candidate in record["candidates"]}
    reranker = AttentionReranker.from_pretrained(
        folder, profile="attention-sorting", device="cpu", dtype="float32"
    )
    found = attention_sort(reranker, "bake bread", [texts[i] for i in range(4)], rounds=2)
    assert [candidate["rank"] - 1 for candidate in record["candidates"]] == list(found.order)


def test_refusals_have_their_exit_codes(call: Call, collection: Path, folder: Path) -> None:
    few = call("positions", "measure", collection, "--candidates", "all", "--depth", "13",
               "--model", folder, "-o", "p.json")  # fmt: skip
    assert (few.returncode, "the most are 12" in few.stderr) == (5, True)
    assert "loading" not in few.stderr, "known before the work"
    nothing = call("positions", "order", collection, "all", "-p", "nowhere.json", "-o", "c.jsonl")
    assert (nothing.returncode, "no such file" in nothing.stderr) == (4, True)
    Path("bad.json").write_text("{}")
    bad = call("positions", "show", "bad.json", "--json")
    assert bad.returncode == 5
    assert json.loads(bad.stdout)["status"] == "error"
    assert not Path("c.jsonl").exists()
