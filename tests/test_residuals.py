"""Upper bounds of measures for documents without a judgement."""

import itertools
import random

import pytest

from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement, ScoredDoc
from ranklens.data.runs import Run
from ranklens.eval.measures import evaluate
from ranklens.eval.policy import Policy
from ranklens.eval.residuals import upper_bounds

MEASURES = [
    "P@3", "R@3", "R_cap@3", "Success@2", "AP", "AP@3", "RR", "RR(rel=2)@3", "nDCG@3", "nDCG",
    "nDCG(dcg='exp-log2')@3", "RBP", "RBP(p=0.5,rel=2)@3", "ERR@3", "AP(rel=2)",
]  # fmt: skip


def run_of(*doc_ids: str) -> Run:
    return Run({"q": [ScoredDoc(doc, -float(rank)) for rank, doc in enumerate(doc_ids)]})


def qrels_of(grades: dict[str, int]) -> Qrels:
    return Qrels(Judgement("q", doc, grade) for doc, grade in grades.items())


def test_hand_computed_bounds() -> None:
    # a is relevant, x unjudged and before it, b is relevant and not found.
    bounds = upper_bounds(
        qrels_of({"a": 2, "b": 2, "c": 0}),
        run_of("x", "a", "c"),
        ["P@3", "R@3", "RR", "AP", "RBP(p=0.5)", "nDCG@3", "Judged@3", "Bpref", "NumRet"],
    )
    assert bounds == {
        "P@3": pytest.approx(2 / 3),
        # 2 found of the 2 relevant ones there are.
        "R@3": 1.0,
        "RR": 1.0,
        "AP": pytest.approx((1 / 1 + 2 / 2) / 2),
        # 1/2 · (1 + 1/2), and 1/8 for everything behind the list.
        "RBP(p=0.5)": pytest.approx(0.75 + 0.125),
        "nDCG@3": 1.0,
        "Judged@3": None,
        "Bpref": None,
        "NumRet": None,
    }


@pytest.mark.parametrize("seed", range(12))
def test_no_judgements_of_the_unjudged_give_more(seed: int) -> None:
    generator = random.Random(seed)
    ranking = list("abcdef")
    generator.shuffle(ranking)
    # Three of six are judged, one more is judged and not found.
    grades = {doc: generator.choice([0, 0, 1, 2]) for doc in ["a", "b", "c", "z"]} | {"y": 2}
    run = run_of(*ranking)
    bounds = upper_bounds(qrels_of(grades), run, MEASURES)
    reached = dict.fromkeys(MEASURES, 0.0)
    for more in itertools.product([0, 1, 2], repeat=3):
        judged = grades | dict(zip("def", more, strict=True))
        results = evaluate(qrels_of(judged), run, MEASURES).measures
        for name in MEASURES:
            reached[name] = max(reached[name], results[name].value)
    for name, bound in bounds.items():
        assert bound is not None
        assert reached[name] <= bound + 1e-12, name
    # What has no ideal is reached, RBP but for what stands behind the list.
    tail = {"RBP": 0.8**6}
    for name in ["P@3", "Success@2", "RR", "RR(rel=2)@3", "ERR@3", "RBP(p=0.5,rel=2)@3", "RBP"]:
        assert bounds[name] == pytest.approx(min(reached[name] + tail.get(name, 0), 1)), name


def test_a_run_of_judged_documents_has_its_values_as_bounds() -> None:
    qrels, run = qrels_of({"a": 2, "b": 0, "c": 1, "d": 1}), run_of("b", "a", "c")
    names = [name for name in MEASURES if name != "RBP"]
    values = evaluate(qrels, run, names).measures
    assert upper_bounds(qrels, run, names) == {
        name: pytest.approx(result.value) for name, result in values.items()
    }


def test_bounds_where_nothing_is_relevant() -> None:
    qrels = qrels_of({"a": 0})
    assert upper_bounds(qrels, run_of("a", "x"), ["nDCG@1", "nDCG@2", "AP", "R@1"]) == {
        "nDCG@1": 0.0,
        "nDCG@2": 1.0,
        "AP": 0.5,
        "R@1": 0.0,
    }


def test_no_bound_where_unjudged_documents_are_left_out() -> None:
    qrels, run = qrels_of({"a": 1}), run_of("x", "a")
    assert upper_bounds(qrels, run, ["P@1"], Policy(unjudged="removed")) == {"P@1": None}
    assert upper_bounds(qrels, run, ["P(judged_only=True)@1"]) == {"P(judged_only=True)@1": None}
