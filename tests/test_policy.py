"""Policies, and parity with pytrec_eval under each on random graded runs."""

from __future__ import annotations

import math
import struct
from dataclasses import replace

import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from ranklens.data.errors import UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement, ScoredDoc
from ranklens.data.runs import Run
from ranklens.eval.measures import evaluate
from ranklens.eval.policy import TREC_EVAL_9, TREC_EVAL_10, Policy, parse_policy

# Ours, pytrec_eval's, its relevance level.
MEASURES = [
    ("nDCG@5", "ndcg_cut_5", 1), ("nDCG", "ndcg", 1), ("AP", "map", 1),
    ("AP(rel=2)@3", "map_cut_3", 2), ("RR", "recip_rank", 1), ("RR(rel=2)", "recip_rank", 2),
    ("P@5", "P_5", 1), ("R@3", "recall_3", 1), ("Rprec", "Rprec", 1), ("Bpref", "bpref", 1),
    ("infAP", "infAP", 1), ("SetF", "set_F", 1), ("SetP(relative=True)", "set_relative_P", 1),
    ("Success@1", "success_1", 1), ("NumRet(rel=1)", "num_rel_ret", 1), ("gm_map", "gm_map", 1),
    ("relative_P_5", "relative_P_5", 1), ("IPrec@0.3", "iprec_at_recall_0.30", 1),
]  # fmt: skip
DOCS = ["q0", "q3", *(f"d{number}" for number in range(14)), "é", "ﬀ", "𝔡"]
# Few values, so that most are tied; two differ beyond single precision only.
SCORES = [-1.5, 0.0, 0.25, 1.0, 20.000000001, 20.000000002]

GRADES = [-2, -1, 0, 0, 1, 2, 3]

QUERIES = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(DOCS), st.sampled_from(GRADES), min_size=1).map(
            # pytrec_eval crashes where every grade of a query is negative.
            lambda judged: judged if max(judged.values()) >= 0 else judged | {"d0": 0}
        ),
        # Some queries are missing from the run.
        st.dictionaries(st.sampled_from(DOCS), st.sampled_from(SCORES), max_size=len(DOCS)),
    ),
    min_size=2,
    max_size=3,
).filter(
    # A run without any judged document is refused.
    lambda queries: any(
        doc in judged for _, found in queries for doc in found for judged, _ in queries
    )
)  # fmt: skip
Queries = list[tuple[dict[str, int], dict[str, float]]]


def single(score: float) -> float:
    return float(struct.unpack("f", struct.pack("f", score))[0])


def order(query_id: str, scores: dict[str, float], policy: Policy) -> list[str]:
    """Return the policy's order, written anew: trec_eval's strings compare as UTF-8 bytes."""
    compared = single if policy.scores == "float32" else float
    ids = list(scores)
    if policy.ties == "rank":
        ids.sort(key=lambda doc: -scores[doc])
    else:
        ids.sort(key=lambda doc: (compared(scores[doc]), doc.encode()), reverse=True)
    if policy.self_documents == "remove":
        ids = [doc for doc in ids if doc != query_id]
    return ids[: policy.depth]


COMPARED = [
    TREC_EVAL_9,
    TREC_EVAL_10,
    replace(TREC_EVAL_9, ties="rank"),
    replace(TREC_EVAL_9, missing="skip", unjudged="removed"),
    replace(TREC_EVAL_10, depth=4, self_documents="remove", unjudged="removed"),
]


def test_random_rankings_score_as_in_pytrec_eval() -> None:
    runs = 0

    # Under all policies at once: making the runs takes as long as comparing one.
    @settings(max_examples=1000, deadline=None, database=None, derandomize=True)
    @given(QUERIES)
    def check(queries: Queries) -> None:
        nonlocal runs
        for policy in COMPARED:
            compare(queries, policy)
        runs += 1

    check()
    assert runs >= 1000


def compare(queries: Queries, policy: Policy) -> None:
    """Compare all measures of one run."""
    grades = {f"q{number}": judged for number, (judged, _) in enumerate(queries)}
    scores = {f"q{number}": found for number, (_, found) in enumerate(queries) if found}
    qrels = Qrels(Judgement(q, d, g) for q, found in grades.items() for d, g in found.items())
    run = Run(
        {
            query_id: [ScoredDoc(d, found[d]) for d in sorted(found, key=lambda d: -found[d])]
            for query_id, found in scores.items()
        }
    )
    # What pytrec_eval reads is unambiguous; by itself it orders as trec_eval 9 only.
    given_scores = scores
    if policy != TREC_EVAL_9:
        given_scores = {
            query_id: {doc: float(-rank) for rank, doc in enumerate(order(query_id, found, policy))}
            for query_id, found in scores.items()
        }
    counted = set(grades) if policy.missing == "zero" else set(scores)
    rounded = policy.recall_levels == "rounded"
    measures = [row for row in MEASURES if not (rounded and row[0].startswith("IPrec"))]
    results = evaluate(qrels, run, [name for name, _, _ in measures], policy).measures
    for level in (1, 2):
        names = {trec for _, trec, rel in measures if rel == level}
        reference = pytrec_eval.RelevanceEvaluator(
            grades,
            names,
            relevance_level=level,
            judged_docs_only_flag=policy.unjudged == "removed",
        ).evaluate({query_id: found for query_id, found in given_scores.items() if found})
        for name, trec, rel in measures:
            if rel != level:
                continue
            found = results[name].per_query
            assert set(found) == counted
            for query_id in counted:
                row = reference.get(query_id)
                expected = row[trec] if row else 0.0
                if trec == "gm_map":
                    expected = math.exp(row[trec]) if row else 1e-5
                # Precision of a list with nothing left in it is no number to trec_eval.
                if math.isnan(expected):
                    expected = 0.0
                assert math.isclose(found[query_id], expected, abs_tol=1e-12), (
                    str(policy),
                    name,
                    query_id,
                )


def test_where_every_grade_is_negative_nothing_is_relevant() -> None:
    # pytrec_eval would write beside its memory.
    qrels = Qrels([*(Judgement("q1", f"d{n}", -2) for n in range(50)), Judgement("q2", "d1", 1)])
    run = Run({q: [ScoredDoc("d1", 2.0), ScoredDoc("d2", 1.0)] for q in ("q1", "q2")})
    names = ["AP", "nDCG", "Bpref", "infAP", "SetF", "R@10", "num_nonrel_judged_ret", "NumRet"]
    results = evaluate(qrels, run, names).measures
    assert [result.per_query["q1"] for result in results.values()] == [0.0] * 7 + [2.0]
    assert results["AP"].per_query["q2"] == 1.0


def one(
    docs: dict[str, float], grades: dict[str, int], names: list[str], policy: str
) -> list[float]:
    run = Run({"q": [ScoredDoc(doc, score) for doc, score in docs.items()]})
    qrels = Qrels(Judgement("q", doc, grade) for doc, grade in grades.items())
    measures = evaluate(qrels, run, names, parse_policy(policy)).measures
    return [result.value for result in measures.values()]


def test_what_trec_eval_10_changed() -> None:
    near = {"d1": 20.000000002, "d2": 20.000000001}
    assert one(near, {"d1": 1}, ["RR"], "trec_eval-9") == [0.5]
    assert one(near, {"d1": 1}, ["RR"], "trec_eval-10") == [1.0]
    # 0.25 of 5 are 1.25 documents: 2 after adding 0.9, 1 rounded. The first relevant document is
    # at rank 1, the second at rank 4.
    docs = {"a": 9.0, "x": 8.0, "y": 7.0, "b": 6.0}
    grades = dict.fromkeys("abcde", 1)
    assert one(docs, grades, ["IPrec@0.25"], "trec_eval-9") == [0.5]
    assert one(docs, grades, ["IPrec@0.25"], "trec_eval-10") == [1.0]


def test_each_change_of_a_policy() -> None:
    docs = {"x": 3.0, "q": 3.0, "b": 2.0, "a": 2.0, "c": 1.0}
    grades = {"a": 1, "q": 0, "c": 1}
    names = ["RR", "P@2", "NumRet"]

    def under(policy: str) -> list[float]:
        return one(docs, grades, names, policy)

    # By id: x, q, b, a, c.
    assert under("trec_eval-9") == [1 / 4, 0.0, 5.0]
    assert under("trec_eval-9, depth=3") == [0.0, 0.0, 3.0]
    assert under("trec_eval-9, self_documents=remove") == [1 / 3, 0.0, 4.0]
    # q, a, c.
    assert under("trec_eval-9, unjudged=removed") == [1 / 2, 0.5, 3.0]
    assert under("trec_eval-9, unjudged=removed, depth=2") == [0.0, 0.0, 1.0]
    ordered = {"b": 2.0, "a": 2.0, "c": 2.0}
    assert one(ordered, grades, ["RR"], "trec_eval-9") == [1.0]
    assert one(ordered, grades, ["RR"], "trec_eval-9,ties=rank") == [0.5]


def test_missing_queries_count_0_or_are_left_out() -> None:
    qrels = Qrels([Judgement("q1", "a", 1), Judgement("q2", "a", 1)])
    run = Run({"q1": [ScoredDoc("a", 1.0)]})
    zero = evaluate(qrels, run, ["AP"])
    skipped = evaluate(qrels, run, ["AP"], replace(TREC_EVAL_9, missing="skip"))
    assert (zero.measures["AP"].value, zero.queries) == (0.5, 2)
    assert (skipped.measures["AP"].value, skipped.queries) == (1.0, 1)
    assert "count as 0" in zero.warnings[0]
    assert "are left out" in skipped.warnings[0]


def test_ties_are_told_where_the_policy_decides_them() -> None:
    qrels = Qrels([Judgement("q", "a", 1)])
    near = Run({"q": [ScoredDoc("a", 20.000000002), ScoredDoc("b", 20.000000001)]})
    equal = Run({"q": [ScoredDoc("a", 2.0), ScoredDoc("b", 2.0)]})

    def told(run: Run, policy: str) -> bool:
        warnings = evaluate(qrels, run, ["AP"], parse_policy(policy)).warnings
        return any("tied scores" in text for text in warnings)

    assert [told(near, name) for name in ("trec_eval-9", "trec_eval-10")] == [True, False]
    assert [told(equal, name) for name in ("trec_eval-10", "trec_eval-10,ties=rank")] == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    "text",
    ["trec_eval-9", "trec_eval-10", "trec_eval-9, missing=skip", "trec_eval-10, depth=100",
     "trec_eval-9, scores=float64", "trec_eval-10, ties=rank, self_documents=remove"],
)  # fmt: skip
def test_a_policy_is_read_from_its_own_text(text: str) -> None:
    assert str(parse_policy(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trec_eval", "unknown policy 'trec_eval'; choose trec_eval-9 or trec_eval-10"),
        ("trec_eval-9,missing=drop", "missing is 'drop'; choose zero or skip"),
        ("trec_eval-9,missing", "missing is ''; choose zero or skip"),
        ("trec_eval-9,order=id", "'order=id' is no change; give NAME=VALUE of scores, ties"),
        ("trec_eval-9,depth=0", "depth must be an integer of at least 1, got 0"),
        ("trec_eval-9,depth=" + "9" * 5000, "got '9999"),
        ("", "unknown policy ''"),
        ("trec_eval-9,depth=ten", "depth must be an integer of at least 1, got 'ten'"),
    ],
)
def test_a_policy_that_does_not_exist(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_policy(text)
    assert message in str(caught.value)
