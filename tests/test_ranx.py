"""ranx beside our measures: equal where it is right, and its known differences on toy inputs.

Compiled by numba its first measure takes ten seconds; interpreted it computes the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement, ScoredDoc
from ranklens.data.runs import Run
from ranklens.eval.measures import evaluate

Grades = dict[str, dict[str, int]]
Scores = dict[str, dict[str, float]]
THIRTY = {f"d{number:02}": 1.0 for number in range(30)}
GRADED = {"q": {"a": 1, "b": 2, "c": 3}}, {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
PLAIN = (
    {
        f"q{q}": {f"d{n}": (n * 7 + q * 3) % 4 for n in range(12) if (n + q) % 3}
        for q in range(6)
    },
    {f"q{q}": {f"d{n}": float((n * 11 + q * 5) % 17) for n in range(14)} for q in range(6)},
)  # fmt: skip

# Input, ranx' measure and value, ours and its value; the values are worked out by hand.
CASES: dict[str, tuple[tuple[Grades, Scores], str, float | str, str, float]] = {
    "float32 tie": (
        ({"q": {"d1": 1}}, {"q": {"d1": 20.000000002, "d2": 20.000000001}}), "mrr", 1.0, "RR", 0.5,
    ),
    "30-way tie": (({"q": {"d29": 1, "d00": 0}}, {"q": THIRTY}), "ndcg@10", 0.0, "nDCG@10", 1.0),
    "missing query": (
        ({"q1": {"d1": 1}, "q2": {"d1": 1}}, {"q1": {"d1": 1.0}}),
        "map", "AssertionError", "AP", 0.5,
    ),
    "graded": (GRADED, "ndcg@10", 0.789998, "nDCG@10", 0.789998),
    # With a relevance level ranx drops the gain of grade 1, ours has none for nDCG.
    "graded from 2 on": (GRADED, "ndcg@10-l2", 0.648041, "nDCG@10", 0.789998),
    "exponential gain": (GRADED, "ndcg_burges@10", 0.680606, "nDCG(dcg='exp-log2')@10", 0.680606),
    # 0.2 · (3 + 0.8 · 3 + 0.64 · 2); ours divides by 3, the highest grade.
    "RBP of grades": (
        ({"q": {"a": 3, "b": 3, "c": 2}}, {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}),
        "rbp.80", 1.336, "RBP(p=0.8)", 1.336 / 3,
    ),
    "zero labels": (
        ({"q1": {"d1": 1}, "q2": {"d1": 0}}, {"q1": {"d1": 1.0}, "q2": {"d1": 1.0}}),
        "map", 0.5, "AP", 0.5,
    ),
}  # fmt: skip
AGREED = {
    "ndcg@5": "nDCG@5", "ndcg_burges@5": "nDCG(dcg='exp-log2')@5", "map@5": "AP@5", "mrr@3": "RR@3",
    "map-l2": "AP(rel=2)", "precision@5": "P@5", "recall@5-l2": "R(rel=2)@5",
    "r-precision": "Rprec", "hit_rate@3": "Success@3", "bpref": "Bpref",
}  # fmt: skip
PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
from ranx import Qrels, Run, evaluate
found = []
for qrels, run, measure in json.load(sys.stdin):
    try:
        found.append(float(evaluate(Qrels(qrels), Run(run), measure)))
    except AssertionError:
        found.append("AssertionError")
json.dump(found, sys.stdout)
"""


@cache
def of_ranx() -> list[Any]:
    """Return ranx' values of all cases, then of the agreed measures."""
    asked = [(*case[0], case[1]) for case in CASES.values()]
    asked += [(*PLAIN, measure) for measure in AGREED]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(asked),
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    values: list[Any] = json.loads(done.stdout)
    return values


def ours(qrels: Grades, run: Scores, name: str) -> float:
    judgements = Qrels(Judgement(q, d, g) for q, docs in qrels.items() for d, g in docs.items())
    ranked = Run(
        {
            q: [ScoredDoc(d, s) for d, s in sorted(docs.items(), key=lambda row: -row[1])]
            for q, docs in run.items()
        }
    )
    return evaluate(judgements, ranked, [name]).measures[name].value


@pytest.mark.parametrize("case", CASES)
def test_known_differences(case: str) -> None:
    (qrels, run), _, theirs, name, expected = CASES[case]
    found = of_ranx()[list(CASES).index(case)]
    assert found == (theirs if isinstance(theirs, str) else pytest.approx(theirs, abs=1e-6))
    assert ours(qrels, run, name) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("measure", AGREED)
def test_ranx_agrees_without_ties(measure: str) -> None:
    found = of_ranx()[len(CASES) + list(AGREED).index(measure)]
    assert 0 < found < 1
    assert ours(*PLAIN, AGREED[measure]) == pytest.approx(found, abs=1e-9)
