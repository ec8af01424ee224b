import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import pytrec_eval

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement, ScoredDoc
from ranklens.data.runs import Run, read_run, write_run
from ranklens.eval.measures import Scorer, default_measures, evaluate
from ranklens.eval.policy import trec_order


def make_qrels(grades: dict[str, dict[str, int]]) -> Qrels:
    return Qrels(Judgement(q, d, g) for q, docs in grades.items() for d, g in docs.items())


def make_run(scores: dict[str, dict[str, float]]) -> Run:
    return Run(
        {
            query_id: sorted((ScoredDoc(d, s) for d, s in docs.items()), key=lambda doc: -doc.score)
            for query_id, docs in scores.items()
        }
    )


THIRTY = {f"d{number:02}": 1.0 for number in range(30)}

# Inputs on which evaluation tools disagree, with what trec_eval 9 computes (worked out by hand
# from its rules: single precision, ties by document id descending, -c, grades as gains).
TOYS = {
    "two-way tie": ({"q": {"d2": 1}}, {"q": {"d1": 1.0, "d2": 1.0}}, {"RR": 1.0, "RR@10": 1.0}),
    "two-way tie, other order": (
        {"q": {"d2": 1}},
        {"q": {"d2": 1.0, "d1": 1.0}},
        {"RR": 1.0, "RR@10": 1.0},
    ),
    "two-way tie, lower id relevant": (
        {"q": {"d1": 1}},
        {"q": {"d1": 1.0, "d2": 1.0}},
        {"RR": 0.5, "RR@10": 0.5},
    ),
    "30-way tie": (
        {"q": {"d29": 1, "d00": 0}},
        {"q": THIRTY},
        {"nDCG@10": 1.0, "RR": 1.0, "RR@10": 1.0, "Judged@10": 0.1},
    ),
    "float32 tie": (
        {"q": {"d1": 1}},
        {"q": {"d1": 20.000000002, "d2": 20.000000001}},
        {"RR": 0.5, "RR@10": 0.5},
    ),
    "beyond float32": (
        {"q": {"d1": 1}},
        {"q": {"d1": 1e300, "d2": 1e299}},
        {"RR": 0.5, "RR@10": 0.5},
    ),
    "missing query": (
        {"q1": {"d1": 1}, "q2": {"d1": 1}},
        {"q1": {"d1": 1.0}},
        {"nDCG@10": 0.5, "AP": 0.5, "RR@10": 0.5, "P@1": 0.5, "R@100": 0.5, "Judged@10": 0.5},
    ),
    "zero labels": (
        {"q1": {"d1": 1}, "q2": {"d1": 0}},
        {"q1": {"d1": 1.0}, "q2": {"d1": 1.0}},
        {"nDCG@10": 0.5, "AP": 0.5, "RR": 0.5, "RR@10": 0.5, "R@100": 0.5, "Judged@10": 1.0},
    ),
    # DCG = 1/log2(3) + 2/log2(4) = 1.63093; the ideal order gains 2 + 1/log2(3) = 2.63093.
    "negative label": (
        {"q1": {"d1": -2, "d2": 1, "d3": 2}},
        {"q1": {"d1": 3.0, "d2": 2.0, "d3": 1.0}},
        {"nDCG@10": 0.619906, "AP": 0.583333, "RR": 0.5, "RR@10": 0.5, "P@1": 0.0},
    ),
    # (1 + 2/log2(3) + 3/2) / (3 + 2/log2(3) + 1/2); exponential gains would give .681.
    "graded": (
        {"q": {"a": 1, "b": 2, "c": 3}},
        {"q": {"a": 3.0, "b": 2.0, "c": 1.0}},
        {"nDCG@10": 0.789998, "AP(rel=2)": 0.583333, "RR(rel=3)@10": 1 / 3, "P(rel=2)@3": 2 / 3},
    ),
}


@pytest.mark.parametrize(("grades", "scores", "expected"), TOYS.values(), ids=TOYS.keys())
def test_toy_inputs_score_as_in_trec_eval(
    grades: dict[str, dict[str, int]],
    scores: dict[str, dict[str, float]],
    expected: dict[str, float],
) -> None:
    evaluation = evaluate(make_qrels(grades), make_run(scores), list(expected))
    found = {name: result.value for name, result in evaluation.measures.items()}
    assert found == pytest.approx(expected, abs=1e-6)
    assert evaluation.queries == len(grades)


def random_case(seed: int) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Return graded qrels and a run with few distinct scores: most documents are tied."""
    generator = random.Random(seed)
    docs = [f"d{number}" for number in range(150)]
    grades, scores = {}, {}
    for number in range(20):
        judged = generator.sample(docs, 40)
        grades[f"q{number}"] = {doc: generator.choice([-1, 0, 0, 1, 2, 3]) for doc in judged}
        # Multiples of 1/8 are exact in single precision.
        scores[f"q{number}"] = {
            doc: generator.randint(-20, 20) / 8 for doc in generator.sample(docs, 120)
        }
    return grades, scores


PARALLELS = {
    "nDCG@10": ("ndcg_cut_10", 1),
    "nDCG": ("ndcg", 1),
    "AP": ("map", 1),
    "AP(rel=2)": ("map", 2),
    "RR": ("recip_rank", 1),
    "RR(rel=2)": ("recip_rank", 2),
    "P@10": ("P_10", 1),
    "P(rel=2)@10": ("P_10", 2),
    "R@100": ("recall_100", 1),
    "R(rel=3)@100": ("recall_100", 3),
    "Bpref": ("bpref", 1),
    "Rprec": ("Rprec", 1),
}


@pytest.mark.parametrize("seed", [1, 2])
def test_every_query_scores_as_in_trec_eval_with_ties(seed: int) -> None:
    grades, scores = random_case(seed)
    evaluation = evaluate(make_qrels(grades), make_run(scores), list(PARALLELS))
    for name, (trec_name, level) in PARALLELS.items():
        reference = pytrec_eval.RelevanceEvaluator(grades, {trec_name}, relevance_level=level)
        expected = {
            query_id: row[trec_name] for query_id, row in reference.evaluate(scores).items()
        }
        found = evaluation.measures[name].per_query
        assert dict(found) == pytest.approx(expected, abs=1e-12)
        assert len(set(found.values())) > 1
    assert evaluation.warnings[0].startswith("20 queries of run 'ranklens' have tied scores")


def test_rankings_score_as_the_runs_of_their_order() -> None:
    grades, scores = random_case(3)
    del scores["q4"]
    qrels, run = make_qrels(grades), make_run(scores)
    orders = {query_id: [doc.doc_id for doc in trec_order(docs)] for query_id, docs in run.items()}
    for name in (*PARALLELS, "RR@10", "nDCG(judged_only=True)@10", "RBP", "gm_map", "NumRet"):
        expected = evaluate(qrels, run, [name]).measures[name].per_query
        scorer = Scorer(qrels, name)
        assert scorer.values(orders) == expected
        assert scorer.mean(orders) == pytest.approx(sum(expected.values()) / 20)
        assert set(scorer.values({}).values()) == {expected["q4"]}


def test_rr_at_k_is_rr_cut_at_k_with_ties() -> None:
    grades, scores = random_case(3)
    measures = ["RR(rel=3)", "RR(rel=3)@3", "RR(rel=3)@1000"]
    results = evaluate(make_qrels(grades), make_run(scores), measures).measures
    full = results["RR(rel=3)"].per_query
    cut = {query_id: rr if rr >= 1 / 3 else 0.0 for query_id, rr in full.items()}
    assert dict(results["RR(rel=3)@3"].per_query) == pytest.approx(cut, abs=1e-12)
    assert dict(results["RR(rel=3)@1000"].per_query) == pytest.approx(dict(full), abs=1e-12)
    assert cut != dict(full)


def test_a_written_run_scores_as_the_run_in_its_order(tmp_path: Path) -> None:
    grades, scores = random_case(4)
    run = make_run(scores)
    path = tmp_path / "a.run"
    write_run(run, path)
    ordered = Run(
        {q: [ScoredDoc(d.doc_id, -float(i)) for i, d in enumerate(docs)] for q, docs in run.items()}
    )
    measures = ["nDCG@10", "AP", "RR@10"]
    found = evaluate(make_qrels(grades), read_run(path), measures)
    expected = evaluate(make_qrels(grades), ordered, measures)
    assert found.measures == expected.measures
    assert found.warnings == ()


def test_trec_order_is_single_precision_then_id_descending() -> None:
    docs = [ScoredDoc("a", 20.000000002), ScoredDoc("b", 20.000000001), ScoredDoc("c", 20.0)]
    assert [doc.doc_id for doc in trec_order([*docs, ScoredDoc("é", 21.0)])] == [
        "é", "c", "b", "a",
    ]  # fmt: skip
    assert trec_order([]) == []


HASH_CHECK = """
from ranklens import Judgement, Qrels, Run, ScoredDoc, evaluate
qrels = Qrels([Judgement("q", "a", 1), Judgement("q", "b", 2)])
run = Run({"q": [ScoredDoc("x", 3.0), ScoredDoc("a", 2.0), ScoredDoc("b", 1.0)]})
both = evaluate(qrels, run, ["nDCG(gains={0:0,1:1,2:9})@10", "nDCG@10"]).measures
print([round(result.value, 6) for result in both.values()])
"""


@pytest.mark.parametrize("seed", ["0", "1", "3"])
def test_measures_asked_together_score_as_when_asked_alone(seed: str) -> None:
    # ir_measures keeps measures in a set, so what went wrong depended on the hash seed.
    done = subprocess.run(
        [sys.executable, "-c", HASH_CHECK],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    # (1/log2(3) + 9/2) / (9 + 1/log2(3)) and (1/log2(3) + 2/2) / (2 + 1/log2(3)).
    assert done.stdout == "[0.532755, 0.619906]\n"


QRELS = make_qrels({"q1": {"a": 1, "b": 0}, "q2": {"c": 1}})
RUN = make_run({"q1": {"a": 2.0, "b": 1.0}, "q2": {"x": 2.0, "c": 1.0}})


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Rprec_mult_0.2", "Rprec_mult_0.20"),
        ("Rprec_mult_1", "Rprec_mult_1.00"),
        ("relative_P_007", "relative_P_7"),
        ("P_05", "P_5"),
        ("iprec_at_recall_0.4", "iprec_at_recall_0.40"),
    ],
)
def test_numbers_of_trec_eval_names_may_be_written_otherwise(name: str, plain: str) -> None:
    run = Run({"1": [ScoredDoc("a", 3.0), ScoredDoc("x", 2.0), ScoredDoc("b", 1.0)]})
    qrels = Qrels(Judgement("1", doc_id, 1) for doc_id in "abcde")
    found = evaluate(qrels, run, [name, plain]).measures
    assert found[name] == found[plain]
    assert found[name].value > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndcg@10", "unknown measure 'ndcg@10'; examples: nDCG@10, AP"),
        ("", "unknown measure ''"),
        ("P@5 AP", "unknown measure 'P@5 AP'"),
        ("nDCG@-1", "unknown measure"),
        ("P", "'P' lacks a parameter or has a wrong one; examples"),
        ("nDCG@1.5", "lacks a parameter or has a wrong one"),
        ("AP(level=2)", "lacks a parameter or has a wrong one"),
        # trec_eval would abort the process.
        ("nDCG@0", "'nDCG@0': cutoff must be an integer of at least 1"),
        ("Judged@0", "cutoff must be an integer of at least 1"),
        ("RR@True", "cutoff must be an integer of at least 1"),
        ("AP(rel=0)", "rel must be an integer of at least 1"),
        ("nDCG(gains={1:1e9})@10", "gains must be numbers of at least 0 by grade"),
        ("nDCG(gains={'a':1})@10", "gains must be numbers of at least 0 by grade"),
        ("Compat", "'Compat' is not supported"),
        ("IPrec@1.5", "recall must be from 0 to 1, got 1.5"),
        ("RBP(p=1.0)", "p must lie between 0 and 1, got 1.0"),
        ("WSS@0", "recall must be above 0 and at most 1, or a percentage, got 0"),
        ("WSS@101", "got 101"),
        ("WSS", "lacks a parameter"),
        ("R_cap@0", "cutoff must be an integer of at least 1"),
        ("LastRel@5", "lacks a parameter or has a wrong one"),
        # trec_eval's names.
        ("P_0", "cutoff must be an integer of at least 1"),
        ("relative_P_0", "cutoff must be an integer of at least 1"),
        ("recall_0", "'recall_0': cutoff must be an integer of at least 1"),
        ("P_2147483648", "'P_2147483648': cutoff must be an integer of at least 1, at most 2147"),
        ("P_" + "9" * 5000, "unknown measure"),
        ("Rprec_mult_0.125", "'Rprec_mult_0.125' takes a number below 1000 of two decimals"),
        ("Rprec_mult_1000", "takes a number below 1000 of two decimals"),
        ("relative_P_1.5", "unknown measure 'relative_P_1.5'"),
        ("ndcg_cut_10(rel=2)", "unknown measure"),
        ("ndcg_cut", "unknown measure"),
        ("relstring", "unknown measure"),
    ],
)
def test_a_measure_that_cannot_be_computed_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        evaluate(QRELS, RUN, ["AP", name])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"Q1": {"a": 1.0}}, r"no query in common \(the run has 'Q1', the qrels 'q1', …\)"),
        ({"q1": {}}, "no query in common"),
        ({}, r"no query in common \(the run has None"),
        ({"q1": {"A": 1.0}}, r"no judged document .*\(the run has 'A', the qrels 'a', …\)"),
    ],
)
def test_a_run_of_another_test_set_is_refused(
    scores: dict[str, dict[str, float]], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        evaluate(QRELS, make_run(scores), ["AP"])


def test_a_run_that_finds_nothing_judged_scores_0() -> None:
    evaluation = evaluate(QRELS, make_run({"q1": {"c": 1.0}}), ["AP"])
    assert evaluation.measures["AP"].value == 0.0


def test_warnings_say_what_the_reader_should_know() -> None:
    run = make_run({"q2": {"c": 1.0, "x": 1.0}, "other": {"a": 1.0, "b": 1.0}})
    evaluation = evaluate(QRELS, run, ["RR"])
    assert dict(evaluation.measures["RR"].per_query) == {"q1": 0.0, "q2": 0.5}
    missing, unjudged, tied = evaluation.warnings
    assert missing.startswith("1 of 2 judged queries are missing")
    assert missing.endswith("count as 0 (first: 'q1')")
    assert unjudged == "1 queries of run 'ranklens' are not judged and are left out"
    assert tied.startswith("1 queries of run 'ranklens' have tied scores")
    assert tied.endswith("as trec_eval does (first: 'q2')")
    assert evaluate(QRELS, RUN, ["RR"]).warnings == ()


def test_the_interval_holds_the_mean_and_is_the_same_each_time() -> None:
    grades, scores = random_case(5)
    results = [
        evaluate(make_qrels(grades), make_run(scores), ["nDCG@10", "AP"]).measures for _ in range(2)
    ]
    assert results[0] == results[1]
    for result in results[0].values():
        low, high = result.ci95
        assert min(result.per_query.values()) < low < result.value < high
        assert high < max(result.per_query.values())
        assert result.value == pytest.approx(sum(result.per_query.values()) / 20)


def test_the_interval_of_one_query_is_a_point() -> None:
    result = evaluate(make_qrels({"q2": {"c": 1}}), RUN, ["RR"]).measures["RR"]
    assert (result.value, result.ci95) == (0.5, (0.5, 0.5))


def test_default_measures_follow_the_relevance_level() -> None:
    assert default_measures() == ["nDCG@10", "AP", "RR@10", "P@10", "R@100", "Judged@10"]
    assert default_measures(2)[1:5] == ["AP(rel=2)", "RR(rel=2)@10", "P(rel=2)@10", "R(rel=2)@100"]
    names = default_measures(2)
    assert list(evaluate(QRELS, RUN, names).measures) == names
