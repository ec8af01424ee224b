"""Comparing runs: families, effects, overlaps, and the documents behind a difference."""

import math
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement, ScoredDoc
from ranklens.data.runs import Run
from ranklens.eval.comparison import Comparison, compare
from ranklens.eval.measures import evaluate
from ranklens.eval.movers import cutoff, movers, query_changes
from ranklens.eval.overlap import jaccard, overlap, unjudged_at
from ranklens.eval.policy import Policy
from ranklens.eval.stats.effect import effect
from ranklens.eval.stats.tests import TESTS, differences

QUERIES = [f"q{number}" for number in range(12)]
GRADES = {q: {f"d{n}": (n + position) % 4 for n in range(12)} for position, q in enumerate(QUERIES)}
QRELS = Qrels(Judgement(q, d, grade) for q, docs in GRADES.items() for d, grade in docs.items())


def ranked(order: dict[str, list[str]]) -> Run:
    return Run(
        {
            query_id: [ScoredDoc(doc_id, float(-rank)) for rank, doc_id in enumerate(doc_ids)]
            for query_id, doc_ids in order.items()
        }
    )


def noisy(seed: int, noise: float) -> Run:
    """Return a run that orders by grade, with so much noise."""
    generator = np.random.default_rng(seed)
    orders = {}
    for query_id, grades in GRADES.items():
        scores = {doc_id: grade - noise * generator.random() for doc_id, grade in grades.items()}
        orders[query_id] = sorted(scores, key=scores.__getitem__, reverse=True)
    return ranked(orders)


RUNS = {"good": noisy(1, 0.5), "fair": noisy(2, 6), "same": noisy(1, 0.5), "poor": noisy(3, 30)}


def values(name: str, measure: str = "nDCG@10") -> list[float]:
    per_query = evaluate(QRELS, RUNS[name], [measure]).measures[measure].per_query
    return [per_query[q] for q in QUERIES]


def found(comparison: Comparison, run: str, against: str) -> float:
    [pair] = [p for p in comparison.pairs if (p.run, p.against) == (run, against)]
    return pair.p_corrected


def test_all_pairs_are_one_family() -> None:
    comparison = compare(QRELS, RUNS, ["nDCG@10"])
    pairs = [(b, a) for a, b in combinations(RUNS, 2)]
    assert [(p.run, p.against) for p in comparison.pairs] == pairs
    same = {("same", "good")}
    raw = [
        1.0 if pair in same else scipy.stats.ttest_rel(*map(values, pair)).pvalue for pair in pairs
    ]
    assert [p.p for p in comparison.pairs] == pytest.approx(raw, rel=1e-9)
    expected = multipletests(raw, method="holm")[1]
    assert [p.p_corrected for p in comparison.pairs] == pytest.approx(expected, rel=1e-9)
    assert comparison.better_than("good", "nDCG@10") == ["fair", "poor"]
    assert comparison.better_than("same", "nDCG@10") == ["fair", "poor"]
    assert comparison.better_than("poor", "nDCG@10") == []
    assert comparison.overlap("same", "good").rbo == pytest.approx(1)


def test_with_a_baseline_the_family_is_the_other_runs_measure_by_measure() -> None:
    comparison = compare(
        QRELS, RUNS, ["nDCG@10", "P@5", "nDCG@10"], baseline="fair", correction="bonferroni"
    )
    names = ["good", "same", "poor"]
    assert [(p.measure, p.run) for p in comparison.pairs] == [
        *(("nDCG@10", name) for name in names), *(("P@5", name) for name in names),
    ]  # fmt: skip
    for pair in comparison.pairs:
        raw = scipy.stats.ttest_rel(
            values(pair.run, pair.measure), values("fair", pair.measure)
        ).pvalue
        assert pair.p_corrected == pytest.approx(min(1, 3 * raw), rel=1e-9)
        gap = np.mean(values(pair.run, pair.measure)) - np.mean(values("fair", pair.measure))
        assert pair.effect.difference == pytest.approx(gap)


def test_tukey_looks_at_all_runs_whatever_the_baseline() -> None:
    pairwise = compare(QRELS, RUNS, ["nDCG@10"], correction="tukey", samples=2000)
    based = compare(QRELS, RUNS, ["nDCG@10"], correction="tukey", samples=2000, baseline="good")
    for name in ("fair", "same", "poor"):
        assert found(based, name, "good") == found(pairwise, name, "good")
    assert found(based, "same", "good") == 1
    assert found(based, "poor", "good") == 1 / 2001


@pytest.mark.parametrize("test", TESTS)
def test_every_test_finds_what_is_there_and_nothing_else(test: str) -> None:
    comparison = compare(QRELS, RUNS, ["nDCG@10"], test=test, baseline="good")
    significant = {pair.run: pair.significant for pair in comparison.pairs}
    assert significant == {"fair": True, "same": False, "poor": True}


def test_samples_too_few_for_the_family_are_told() -> None:
    # Six pairs: 6 / 100 is above the level, 6 / 130 is not.
    for samples, told in ((99, True), (129, False)):
        comparison = compare(QRELS, RUNS, ["P@5"], test="bootstrap", samples=samples)
        assert any("none can be significant" in text for text in comparison.warnings) == told
        assert any(pair.significant for pair in comparison.pairs) != told
    for test, correction in (("t", "holm"), ("bootstrap", "bh")):
        comparison = compare(QRELS, RUNS, ["P@5"], test=test, correction=correction, samples=99)
        assert not any("none can be significant" in text for text in comparison.warnings)


def test_effects_by_hand_and_by_scipy() -> None:
    row = np.array([0.5, 0.1, 0.0, -0.2])
    size = effect(row)
    assert size.difference == pytest.approx(0.1)
    assert (size.wins, size.ties, size.losses) == (2, 1, 1)
    assert size.superiority == 0.625
    assert size.d_z == pytest.approx(0.1 / math.sqrt((0.16 + 0 + 0.01 + 0.09) / 3))
    interval = scipy.stats.ttest_1samp(row, 0).confidence_interval(0.95)
    assert size.ci95 == pytest.approx((interval.low, interval.high), rel=1e-9)
    # Nothing varies: the deviation, not the difference, is what is missing.
    constant = effect(differences([0.3, 0.4], [0.2, 0.3]))
    assert constant.d_z is None
    assert constant.ci95 == (constant.difference, constant.difference)
    assert effect(np.zeros(3)).d_z == 0
    single = effect(np.array([0.5]))
    assert (single.ci95, single.d_z, single.wins) == (None, None, 1)


def test_missing_queries_count_as_zero_or_are_skipped_in_all_runs() -> None:
    some = Run({q: RUNS["good"][q] for q in QUERIES[3:]})
    runs = {"all": RUNS["fair"], "some": some}
    zero = compare(QRELS, runs, ["nDCG@10"], baseline="all")
    assert zero.queries == 12
    assert zero.runs["some"].missing == ("q0", "q1", "q2")
    assert any("some: 3 of 12 judged queries are missing" in text for text in zero.warnings)
    gaps = np.array(values("good")) - np.array(values("fair"))
    gaps[:3] = -np.array(values("fair")[:3])
    assert zero.pairs[0].effect.difference == pytest.approx(gaps.mean())
    assert zero.overlap("some", "all").queries == 9

    skip = compare(QRELS, runs, ["nDCG@10"], baseline="all", policy=Policy(missing="skip"))
    assert skip.queries == 9
    assert skip.pairs[0].effect.difference == pytest.approx(gaps[3:].mean())
    assert skip.runs["all"].measures["nDCG@10"].value == pytest.approx(np.mean(values("fair")[3:]))
    assert skip.runs["some"].missing == ("q0", "q1", "q2")
    assert [text for text in skip.warnings if "tied" not in text] == [
        "some: 3 of 12 judged queries are missing from run 'ranklens' and are left out "
        "(first: 'q0')",
        "3 of 12 judged queries are not in all runs and are left out",
    ]


def test_refused() -> None:
    with pytest.raises(UsageError, match="two runs or more"):
        compare(QRELS, {"one": RUNS["good"]}, ["P@5"])
    with pytest.raises(UsageError, match="'best' is none of the runs: good, fair, same, poor"):
        compare(QRELS, RUNS, ["P@5"], baseline="best")
    with pytest.raises(UsageError, match="unknown test 'z'; the tests are t, wilcoxon"):
        compare(QRELS, RUNS, ["P@5"], test="z")
    with pytest.raises(UsageError, match=r"unknown correction 'fdr'; .*, tukey"):
        compare(QRELS, RUNS, ["P@5"], correction="fdr")
    for measure, said in (
        ("NumRet", "not the mean"),
        ("gm_map", "not the mean"),
        ("LastRel", "lower"),
    ):
        with pytest.raises(UsageError, match=said):
            compare(QRELS, RUNS, [measure])
    halves = {
        "first": Run({q: RUNS["good"][q] for q in QUERIES[:6]}),
        "second": Run({q: RUNS["good"][q] for q in QUERIES[6:]}),
    }
    with pytest.raises(InvalidInputError, match="second and first have no judged query in common"):
        compare(QRELS, halves, ["P@5"])


def test_overlap_of_rankings_by_hand() -> None:
    assert jaccard(list("abc"), list("bcd")) == 0.5
    # Ten of eleven: below the tenth nothing counts.
    assert jaccard(list("abcdefghijX"), list("Xabcdefghi")) == pytest.approx(9 / 11)
    assert jaccard([], []) == 1
    a = {"q1": ["a", "b"], "q2": ["c"], "q3": ["z"]}
    b = {"q1": ["b", "a"], "q2": ["c"], "q4": ["z"]}
    alike = overlap(a, b)
    assert alike.queries == 2
    assert alike.jaccard == 1
    # q1: 0.1 * (0 + 0.9 * 1) + 0.81 = 0.9.
    assert alike.rbo == pytest.approx((0.9 + 1) / 2)
    qrels = Qrels([Judgement("q1", "a", 0), Judgement("q2", "x", 1)])
    assert unjudged_at(qrels, {"q1": ["a", "b"], "q2": ["c"]}) == 0.75


def test_movers_and_what_they_contribute() -> None:
    grades = {"a": 3, "b": 2, "c": 1, "n": -1}
    order = ["b", "a", "u", "c"]
    other = ["a", "n", "b", "x", "c"]
    ideal = 3 + 2 / math.log2(3)
    moved = movers(grades, order, other, k=2)
    # At depth 2: a falls from 1 to 2, b rises from 3 to 1, n leaves from 2; c, u, x are below.
    assert [(m.doc_id, m.grade, m.rank, m.rank_against) for m in moved] == [
        ("b", 2, 1, 3), ("a", 3, 2, 1), ("n", -1, None, 2),
    ]  # fmt: skip
    assert [m.contribution for m in moved] == pytest.approx(
        [2 / ideal, (3 / math.log2(3) - 3) / ideal, 0]
    )
    unjudged = {m.doc_id: m.grade for m in movers(grades, order, other, k=4)}
    assert unjudged["u"] is unjudged["x"] is None
    assert [m.contribution for m in movers({"a": 0}, ["a", "b"], ["b", "a"])] == [0, 0]


def test_contributions_add_up_to_the_difference_in_ndcg() -> None:
    measure = "nDCG@5"
    ours, theirs = (
        evaluate(QRELS, RUNS[name], [measure]).measures[measure].per_query
        for name in ("fair", "poor")
    )
    for q in QUERIES:
        fair, poor = ([doc.doc_id for doc in RUNS[name][q]] for name in ("fair", "poor"))
        total = math.fsum(m.contribution for m in movers(GRADES[q], fair, poor, k=5))
        assert total == pytest.approx(ours[q] - theirs[q], abs=1e-9)


def test_largest_wins_and_losses() -> None:
    ours, theirs = dict(zip(QUERIES, values("good"), strict=True)), dict.fromkeys(QUERIES, 0.5)
    theirs["q3"], theirs["q7"], theirs["q5"] = ours["q3"], ours["q7"] + 0.3, ours["q5"] + 0.1
    wins, losses = query_changes(QRELS, RUNS["good"], RUNS["poor"], ours, theirs, count=20)
    assert [change.query_id for change in losses] == ["q7", "q5"]
    assert len(wins) == 9
    gaps = [change.difference for change in wins]
    assert gaps == sorted(gaps, reverse=True)
    assert all(0 < len(change.movers) <= 5 for change in wins)
    wins, losses = query_changes(QRELS, RUNS["good"], RUNS["poor"], ours, theirs, count=1)
    assert (len(wins), [change.query_id for change in losses]) == (1, ["q7"])


@pytest.mark.parametrize(
    ("measure", "k"),
    [("nDCG@20", 20), ("AP(rel=2)", 10), ("P(rel=2)@5", 5),
     ("ndcg_cut_20", 20), ("P_5(rel=2)", 5), ("WSS@95", 10), ("IPrec@0.1", 10),
     ("iprec_at_recall_1", 10), ("Rprec_mult_2", 10)],
)  # fmt: skip
def test_the_cutoff_of_a_measure(measure: str, k: int) -> None:
    assert cutoff(measure) == k
