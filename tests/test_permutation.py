"""Orders that models wrote: real answers, made-up ones, and any text at all."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranklens.rerank.listwise.permutation import Permutation, read_permutation

FindCollection = Callable[[str], Path]


def named(answer: str, passages: int) -> list[int]:
    """Return the identifiers that an answer was read to name, best first."""
    found = read_permutation(answer, passages)
    return [place + 1 for place in found.order[: passages - len(found.missing)]]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[3] > [1] > [2]", [3, 1, 2]),
        ("12] > [13] > [6", [12, 13, 6]),  # the prompt had written the first bracket
        ("5 > [11] > [6] > [5]", [5, 11, 6]),
        ("3 > 1 > 2.", [3, 1, 2]),
        ("[3, 1, 2]", [3, 1, 2]),
        ('["3", "1"]', [3, 1]),
        ("【3】→【1】", [3, 1]),
        ("[3]&gt;[1]", [3, 1]),
        ("<3> > <1>", [3, 1]),
        ("**[3]** > **[1]**", [3, 1]),
        ("[Passage 3] > [passage 1]", [3, 1]),
        ("Passage 3 > Passage 1", [3, 1]),
        ("(2) > (1)", [2, 1]),
        ("(2), (1)", [2, 1]),
        ("[１２] > [٣]", [12, 3]),  # full-width and Arabic digits
        ("1. [14] > 2. [15] > 3. [16]", [14, 15, 16]),
        ("1. [1] 2. [4]\n3. [3]", [1, 4, 3]),
        ("1) 3\n2) 1\n3) 2", [3, 1, 2]),
        ("3, 1, 2", [3, 1, 2]),
        ("3\n1\n2\n", [3, 1, 2]),
        ("The order is 3, 1 and 2.", [3, 1, 2]),
        ("Sure! [2] > [1]. Passage 3 is from 1996.", [2, 1]),
        ("<think>[2] is good</think>[1] > [2]", [1, 2]),
        ("<think>[2] is", []),
        ("20 passages have been provided.", []),
        ("from 1 to 20", []),
        ("[] > []", []),
        ("[a] > [2] > [b]", [2]),
        ("[-1] > [1.5] > [1-3] > [2]", [2]),
        ("[1–5] > [1 to 4] > [−3] > [1, and 6] > [2]", [2]),
        ("[my order is 3 > 1 > 2]", [3, 1, 2]),
        ("", []),
    ],
)
def test_what_models_write(answer: str, expected: list[int]) -> None:
    assert named(answer, 20) == expected


def test_the_record_says_what_was_wrong() -> None:
    found = read_permutation("[2] > [9] > [2] > [0] > [" + "7" * 5000 + "] > [4]", 4)
    assert found == Permutation((1, 3, 0, 2), (1, 3), (2,), ("9", "0", "7" * 20), malformed=False)
    assert not found.clean
    assert read_permutation(" [2]>[1]\n", 2) == Permutation((1, 0))
    assert read_permutation("2 > 1", 2) == Permutation((1, 0), malformed=True)


def test_a_number_that_may_have_gone_on_is_not_taken() -> None:
    """``[1`` at the end of an answer is [1] of nine passages, and perhaps [12] of twenty."""
    assert named("[3] > [1", 20) == [3]
    assert named("[3] > [1", 9) == [3, 1]
    assert named("[1] > [3", 20) == [1, 3]


# Of each file: answers, clean ones, and ones that lack, repeat or go beyond identifiers, or have
# another form. The counts of the second and fourth are those of every number in the answer; in
# the others some numbers are no identifiers ("100% of the passages", "1. [4] > [2]").
REAL = {
    "rankvicuna_bm25_dl19": (387, 0, 11, 373, 9, 387),
    "rankvicuna_bm25_dl20": (486, 486, 0, 0, 0, 0),
    "vicuna-13b-v1.5_bm25_dl19": (387, 0, 386, 0, 0, 387),
    "vicuna-7b-ckpt800_bm25_dl19": (387, 219, 42, 163, 0, 3),
    "vicuna-7b-v1.5_bm25_dl19": (387, 6, 22, 3, 1, 381),
}


@pytest.mark.parametrize("name", REAL)
def test_real_answers(shared_collection: FindCollection, name: str) -> None:
    path = shared_collection("rankllm-raw-responses") / f"{name}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        answers = [json.loads(line)["response"] for line in lines]
    read = [read_permutation(answer, 20) for answer in answers]
    assert all(sorted(one.order) == list(range(20)) for one in read)
    counted = Counter(
        fault
        for one in read
        for fault in ("missing", "repeated", "out_of_range", "malformed", "clean")
        if getattr(one, fault)
    )
    kinds = ("clean", "missing", "repeated", "out_of_range", "malformed")
    assert (len(read), *(counted[kind] for kind in kinds)) == REAL[name]
    for answer, one in zip(answers, read, strict=True):
        numbers = simple(answer)
        firsts = list(dict.fromkeys(n for n in numbers if 1 <= n <= 20))
        assert list(one.order[: len(firsts)]) == [n - 1 for n in firsts]
        assert set(one.missing) == set(range(1, 21)) - set(firsts)
        assert set(one.repeated) == {n for n in firsts if numbers.count(n) > 1}
        if one.clean:
            plain = [int(part) - 1 for part in answer.strip()[1:-1].split("] > [")]
            assert list(one.order) == plain


def simple(answer: str) -> list[int]:
    """Return the identifiers of these files' answers: in brackets, but the first may lack one."""
    first = re.match(r"(\d+)\]? > ", answer)
    ids = re.findall(r"\[(\d+)\]", answer)
    return [int(n) for n in ([first[1]] if first else []) + ids]


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_clean_answers_and_their_beginnings(data: st.DataObject) -> None:
    passages = data.draw(st.integers(1, 30))
    order = data.draw(st.permutations(range(passages)))
    answer = " > ".join(f"[{place + 1}]" for place in order)
    assert read_permutation(answer, passages) == Permutation(tuple(order))
    cut = read_permutation(answer[: data.draw(st.integers(0, len(answer)))], passages)
    kept = passages - len(cut.missing)
    assert list(cut.order[:kept]) == order[:kept]
    assert not cut.repeated
    assert not cut.out_of_range


@given(st.text() | st.text("[](){}<>0123456789٣, .>\n-&gtand:abP#'*=", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_a_whole_order(text: str) -> None:
    for passages in (1, 3, 12):
        found = read_permutation(text, passages)
        assert sorted(found.order) == list(range(passages))
        added = len(found.missing)
        assert [place + 1 for place in found.order[passages - added :]] == list(found.missing)
        assert list(found.missing) == sorted(found.missing)
        assert not set(found.repeated) & set(found.missing)


@pytest.mark.parametrize("piece", ["[", "1 ", "-", " \n", "[1,", "> ", "9", "(", "[doc ", "1 and "])
def test_long_answers_of_one_thing(piece: str) -> None:
    assert sorted(read_permutation(piece * 5000, 3).order) == [0, 1, 2]
