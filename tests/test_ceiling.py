import itertools

import pytest

from ranklens.data.errors import UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement, ScoredDoc
from ranklens.data.runs import Run
from ranklens.eval.ceiling import ceiling_run
from ranklens.eval.measures import evaluate

GRADES = {"a": 0, "b": 2, "c": -1, "d": 3, "e": 1, "f": 3}
QRELS = Qrels(Judgement("q", doc_id, grade) for doc_id, grade in GRADES.items())
ORDER = ["c", "x", "a", "b", "e", "f", "d"]


def ranking(order: list[str], query_id: str = "q") -> Run:
    return Run({query_id: [ScoredDoc(doc_id, -float(r)) for r, doc_id in enumerate(order)]})


def ids(run: Run, query_id: str = "q") -> list[str]:
    return [doc.doc_id for doc in run[query_id]]


def ndcg(run: Run) -> float:
    return evaluate(QRELS, run, ["nDCG@10"]).measures["nDCG@10"].value


def test_the_head_is_ordered_by_grade_and_the_rest_stays() -> None:
    # c (-1), x (unjudged) and a (0) gain nothing alike and keep their order.
    assert ids(ceiling_run(ranking(ORDER), QRELS, 5)) == ["b", "e", "c", "x", "a", "f", "d"]
    assert ids(ceiling_run(ranking(ORDER), QRELS, 1)) == ORDER
    assert ids(ceiling_run(ranking(ORDER), QRELS, 99)) == ["f", "d", "b", "e", "c", "x", "a"]


def test_no_order_of_the_head_beats_the_ceiling() -> None:
    others = [ndcg(ranking([*head, *ORDER[5:]])) for head in itertools.permutations(ORDER[:5])]
    best = ndcg(ceiling_run(ranking(ORDER), QRELS, 5))
    assert best == pytest.approx(max(others), abs=1e-12)
    assert min(others) < best - 0.1


def test_a_query_without_judgements_keeps_its_order() -> None:
    assert ids(ceiling_run(ranking(ORDER, "other"), QRELS, 5), "other") == ORDER


@pytest.mark.parametrize("depth", [0, -1])
def test_a_depth_below_one_is_refused(depth: int) -> None:
    with pytest.raises(UsageError, match=f"depth must be at least 1, got {depth}"):
        ceiling_run(ranking(ORDER), QRELS, depth)
