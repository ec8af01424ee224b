"""The store of verdicts, ensembles, and which pairs are judged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.qrels import Qrels, read_qrels, write_qrels
from ranklens.data.records import Judgement
from ranklens.eval.judge.combine import combine
from ranklens.eval.judge.pairs import holes, united
from ranklens.eval.judge.store import VerdictStore
from ranklens.eval.judge.verdict import Call, Pair, Verdict

JUDGE = {"model": "m", "prompt": "graded", "prompt_digest": "abc"}
PAIRS = [Pair("q", f"d{n}", "a query", f"text {n}") for n in range(3)]
VERDICTS = [
    Verdict((Call("graded", 2, probabilities=(0.1, 0.2, 0.6, 0.1), mass=0.9),), 100, 1, 7),
    Verdict((Call("graded", None, "no \u2028 idea\n"),), 100, 5),
    Verdict((Call("a", 3, "3"), Call("b", 2, "2")), 200, 2),
]
# A grade that is no number.
WRONG = (
    b'{"query": "q", "doc": "d", "texts": "0", "calls": [{"name": "graded", "grade": "2"}],'
    b' "tokens_in": 1, "tokens_out": 1, "tokens_cut": 0}'
)


def filled(path: Path) -> Path:
    with VerdictStore(path, JUDGE) as store:
        for pair, verdict in zip(PAIRS, VERDICTS, strict=True):
            store.add(pair, verdict)
    return path


def test_verdicts_are_found_again(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.jsonl")
    with VerdictStore(path, JUDGE) as store:
        assert [store.get(pair) for pair in PAIRS] == VERDICTS
    assert [verdict.grade for verdict in VERDICTS] == [2, None, 2]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0]["model"] == "m"
    assert [row["label"] for row in rows[1:]] == [2, None, 2]


def test_a_torn_last_line_is_judged_again_wherever_it_is_torn(tmp_path: Path) -> None:
    whole = filled(tmp_path / "whole.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    path = tmp_path / "s.jsonl"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        ends = whole[:length].count(b"\n")
        with VerdictStore(path, JUDGE) as store:
            found = [store.get(pair) for pair in PAIRS]
        kept = max(0, ends - 1)
        assert found == [*VERDICTS[:kept], *[None] * (3 - kept)]
        assert path.read_bytes() == b"".join(lines[: max(1, ends)])


def test_other_texts_are_another_pair(tmp_path: Path) -> None:
    with VerdictStore(filled(tmp_path / "s.jsonl"), JUDGE) as store:
        assert store.get(Pair("q", "d0", "a query", "text 0, changed")) is None
        assert store.get(Pair("q", "d0", "another query", "text 0")) is None


@pytest.mark.parametrize("change", [{"model": "n"}, {"prompt_digest": "x"}, {"dtype": "float16"}])
def test_another_judge_is_refused(tmp_path: Path, change: Mapping[str, str]) -> None:
    path = filled(tmp_path / "s.jsonl")
    before = path.read_bytes()
    ((key, value),) = change.items()
    with pytest.raises(InvalidInputError, match=f"another judge: {key} is .* '{value}' now"):
        VerdictStore(path, {**JUDGE, **change})
    assert path.read_bytes() == before


def test_a_judge_that_judged_nothing_gives_way(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    with VerdictStore(path, {**JUDGE, "model": "mistyped"}):
        pass
    filled(path)
    with VerdictStore(path, JUDGE) as store:
        assert [store.get(pair) for pair in PAIRS] == VERDICTS
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("content", [b"my notes", b'{"a": 1}', b'{"format": "other"}\n', b"\n"])
def test_a_file_that_is_no_store_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"s\.jsonl"):
        VerdictStore(path, JUDGE)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", [b"{}", b"nonsense", b"[]", b"\xff", b'{"query": "q"}', WRONG])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = filled(tmp_path / "s.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line + b"\n", *lines[2:]]))
    with pytest.raises(InvalidInputError, match=r"s\.jsonl:3: not a line"):
        VerdictStore(path, JUDGE)


def test_two_processes_do_not_share_a_store(tmp_path: Path) -> None:
    with (
        VerdictStore(tmp_path / "s.jsonl", JUDGE),
        pytest.raises(InvalidInputError, match="in use by another process"),
    ):
        VerdictStore(tmp_path / "s.jsonl", JUDGE)
    with VerdictStore(tmp_path / "s.jsonl", JUDGE):
        pass


def qrels(**grades: int) -> Qrels:
    return Qrels(Judgement("q", doc_id, grade) for doc_id, grade in grades.items())


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("majority", {"a": 0, "b": 1, "c": 3, "d": 0, "e": 2}),
        ("median", {"a": 1, "b": 1, "c": 3, "d": 0, "e": 2}),
        ("mean", {"a": 1, "b": 1, "c": 3, "d": 1, "e": 2}),
    ],
)
def test_an_ensemble_takes_the_lower_label_of_a_tie(by: str, expected: dict[str, int]) -> None:
    # a: three labels once each; b: 1 and 2; c: all agree; d: 0, 0, 3; e: two sets of three.
    sets = [
        qrels(a=0, b=1, c=3, d=0, e=2),
        qrels(a=1, b=1, c=3, d=0),
        qrels(a=3, b=2, c=3, d=3, e=3),
    ]
    found = combine(sets, by)
    assert dict(found.qrels["q"]) == expected
    assert (found.incomplete, found.unanimous) == (1, 1)
    assert found.tied == {"majority": 2, "median": 1, "mean": 1}[by]


def test_an_unknown_way_to_combine_is_refused() -> None:
    with pytest.raises(UsageError, match="majority, median, mean"):
        combine([qrels(a=1)], "max")


def test_humans_labels_stand_and_holes_are_filled() -> None:
    human = qrels(a=3, b=0)
    wanted = [("q", "a"), ("q", "c"), ("r", "a")]
    assert holes(wanted, human) == [("q", "c"), ("r", "a")]
    union = united({("q", "a"): 0, ("q", "c"): 1, ("r", "a"): 2}, human)
    assert {query: dict(grades) for query, grades in union.items()} == {
        "q": {"a": 3, "b": 0, "c": 1},
        "r": {"a": 2},
    }


def test_written_qrels_are_read_back_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    write_qrels(qrels(a=3, b=0), path)
    assert path.read_text() == "q 0 a 3\nq 0 b 0\n"
    assert read_qrels(path) == qrels(a=3, b=0)
    for bad in (Judgement("q 1", "a", 1), Judgement("q", "a\tb", 1), Judgement("#q", "a", 1)):
        with pytest.raises(InvalidInputError, match="cannot carry"):
            write_qrels(Qrels([bad]), path)
    assert path.read_text() == "q 0 a 3\nq 0 b 0\n"
