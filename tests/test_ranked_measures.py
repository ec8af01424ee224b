"""Measures that are computed here, by hand and against gdeval."""

from __future__ import annotations

import math
import random
import shutil

import pytest

from ranklens.data.errors import InvalidInputError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement, ScoredDoc
from ranklens.data.runs import Run
from ranklens.eval.measures import evaluate

QRELS = Qrels(Judgement("q", doc, grade) for doc, grade in {"a": 1, "b": 2, "c": 3, "z": 0}.items())


def value(name: str, ranking: str, qrels: Qrels = QRELS) -> float:
    run = Run({"q": [ScoredDoc(doc, -float(rank)) for rank, doc in enumerate(ranking)]})
    return evaluate(qrels, run, [name]).measures[name].value


@pytest.mark.parametrize(
    ("name", "ranking", "expected"),
    [
        # (1 + 3/log2(3) + 7/2) over (7 + 3/log2(3) + 1/2).
        ("nDCG(dcg='exp-log2')@10", "abc", 0.680606),
        ("nDCG(dcg='exp-log2')", "abc", 0.680606),
        ("nDCG(dcg='exp-log2')@1", "abc", 1 / 7),
        ("nDCG(gains={3:0.5})@3", "cab", (0.5 + 1 / math.log2(3) + 2 / 2)
         / (2 + 1 / math.log2(3) + 0.5 / 2)),
        # Gains 1/3, 2/3, 1, an unjudged document before the last.
        ("RBP", "abxc", 0.2 * (1 / 3 + 0.8 * 2 / 3 + 0.8**3)),
        ("RBP(p=0.5)@2", "abxc", 0.5 * (1 / 3 + 0.5 * 2 / 3)),
        ("RBP(p=0.5,rel=2)", "abxc", 0.5 * (0.5 + 0.125)),
        # R is 1/16, 3/16, 7/16.
        ("ERR@10", "abc", 1 / 16 + 15 / 16 * 3 / 16 / 2 + 15 / 16 * 13 / 16 * 7 / 16 / 3),
        ("ERR", "xc", 7 / 16 / 2),
        ("R_cap@1", "cab", 1.0),
        ("R_cap@2", "xc", 1 / 2),
        ("R_cap@100", "axb", 2 / 3),
        ("R_cap(rel=3)@100", "axc", 1.0),
        ("RR(rel=2)@1", "ab", 0.0),
        ("RR(rel=2)@2", "ab", 0.5),
        ("Judged@3", "xaz", 2 / 3),
        ("Judged", "xazy", 0.5),
        ("Judged@10", "xa", 0.5),
        # The pool is x, y and the four judged ones: 3 relevant of 6.
        ("LastRel", "xaybc", 5.0),
        ("LastRel", "xab", 5.0),
        ("LastRel", "a", 4.0),
        ("LastRel(rel=2)", "bzca", 3.0),
        # All three are needed: 5 of 6 are read.
        ("WSS@95", "xaybc", 0.95 - 5 / 6),
        ("WSS@0.95", "xaybc", 0.95 - 5 / 6),
        # Two of three are needed.
        ("WSS@0.5", "xaybc", 0.5 - 4 / 6),
        ("WSS@100", "cab", 1 - 3 / 4),
        # c is not found: it stands last of 5.
        ("WSS@95", "xab", 0.95 - 5 / 5),
    ],
)  # fmt: skip
def test_hand_computed_values(name: str, ranking: str, expected: float) -> None:
    assert value(name, ranking) == pytest.approx(expected, abs=1e-6)


def test_screening_needs_95_percent_of_20_to_be_19() -> None:
    qrels = Qrels(Judgement("q", chr(65 + n), 1) for n in range(20))
    ranking = "".join(chr(65 + n) for n in range(20))
    assert value("WSS@95", ranking, qrels) == pytest.approx(0.95 - 19 / 20)
    assert value("WSS@95", ranking[:19] + "xyz" + ranking[19:], qrels) == pytest.approx(
        0.95 - 19 / 23
    )


def test_rbp_of_the_highest_grades_does_not_exceed_1() -> None:
    qrels = Qrels(Judgement("q", f"d{n}", 3) for n in range(100))
    run = Run({"q": [ScoredDoc(f"d{n}", -float(n)) for n in range(100)]})
    result = evaluate(qrels, run, ["RBP"]).measures["RBP"]
    assert result.value == pytest.approx(1 - 0.8**100)


@pytest.mark.parametrize(
    "name", ["nDCG(dcg='exp-log2')@5", "RBP", "ERR@5", "R_cap@5", "RR@5", "WSS@95", "LastRel",
             "IPrec@0.5", "SetF"],
)  # fmt: skip
def test_without_a_relevant_document_the_value_is_0(name: str) -> None:
    qrels = Qrels([Judgement("q", "a", 0), Judgement("q", "b", -1)])
    assert value(name, "abx", qrels) == 0.0


def test_counts_are_added_up_and_their_interval_with_them() -> None:
    qrels = Qrels(Judgement(f"q{n}", d, g) for n in range(4) for d, g in (("a", 1), ("b", 2)))
    run = Run({f"q{n}": [ScoredDoc(d, 1.0 - n) for d in "abc"[: n + 1]] for n in range(4)})
    names = ["NumQ", "NumRel", "NumRel(rel=2)", "NumRet", "NumRet(rel=1)"]
    results = evaluate(qrels, run, names).measures
    assert [result.value for result in results.values()] == [4.0, 8.0, 4.0, 9.0, 7.0]
    assert results["NumQ"].ci95 == (4.0, 4.0)
    low, high = results["NumRet"].ci95
    assert 4.0 <= low < 9.0 < high <= 12.0


def test_a_grade_beyond_exponential_gains_is_refused() -> None:
    qrels = Qrels([Judgement("q", "a", 5000)])
    with pytest.raises(InvalidInputError, match="grade 5000 is too large for exponential gains"):
        value("nDCG(dcg='exp-log2')@5", "a", qrels)
    assert value("nDCG@5", "a", qrels) == 1.0


def test_exponential_ndcg_and_err_are_gdevals() -> None:
    if shutil.which("perl") is None:
        pytest.skip("gdeval needs perl")
    import ir_measures
    from ir_measures.providers import GdevalProvider

    generator = random.Random(1)
    docs = [f"d{number:02}" for number in range(40)]
    grades = {
        str(query): {doc: generator.choice([-1, 0, 0, 1, 2, 3, 4]) for doc in docs[:30]}
        for query in range(1, 21)
    }
    run = {
        query: {doc: float(generator.randint(0, 9)) for doc in generator.sample(docs, 25)}
        for query in grades
    }
    names = ["nDCG(dcg='exp-log2')@10", "ERR@10"]
    measures = [ir_measures.parse_measure(name) for name in names]
    expected = {
        (str(metric.measure), metric.query_id): metric.value
        for metric in GdevalProvider().iter_calc(measures, grades, run)
    }
    assert len(expected) == 40
    results = evaluate(
        Qrels(Judgement(q, d, g) for q, found in grades.items() for d, g in found.items()),
        Run(
            {
                q: [ScoredDoc(d, s) for d, s in sorted(found.items(), key=lambda item: -item[1])]
                for q, found in run.items()
            }
        ),
        names,
    ).measures
    for (name, query_id), number in expected.items():
        # It prints five decimals.
        assert results[name].per_query[query_id] == pytest.approx(number, abs=6e-6)
