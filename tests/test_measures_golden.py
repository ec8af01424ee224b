"""Published values on real judgements and runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ranklens.data.load import load_collection
from ranklens.data.qrels import read_qrels
from ranklens.data.runs import read_run
from ranklens.eval.measures import evaluate

SharedCollection = Callable[[str], Path]

# The commands of trec_eval 9.0.4's own test: -q; -q -c on a run that lacks query 302; -q -l2.
TREC_EVAL_CASES = [
    ("out.test.aq", "qrels.test", "results.test", 1),
    ("out.test.aqc", "qrels.test", "results.trunc", 1),
    ("out.test.aql", "qrels.rel_level", "results.test", 2),
]
TREC_EVAL_NAMES = {
    "map": "AP{rel}",
    "recip_rank": "RR{rel}",
    "P_5": "P{rel}@5",
    "P_10": "P{rel}@10",
    "recall_100": "R{rel}@100",
    "ndcg_cut_10": "nDCG@10",
    "ndcg": "nDCG",
    "Rprec": "Rprec{rel}",
    "bpref": "Bpref{rel}",
    "map_cut_10": "AP{rel}@10",
}


@pytest.mark.parametrize(("output", "qrels", "run", "level"), TREC_EVAL_CASES)
def test_trec_evals_own_test_files(
    shared_collection: SharedCollection, output: str, qrels: str, run: str, level: int
) -> None:
    folder = shared_collection("trec_eval-testdata")
    names = {
        trec: name.format(rel=f"(rel={level})" if level > 1 else "")
        for trec, name in TREC_EVAL_NAMES.items()
    }
    evaluation = evaluate(read_qrels(folder / qrels), read_run(folder / run), list(names.values()))
    expected: dict[tuple[str, str], str] = {}
    for line in (folder / output).read_text(encoding="utf-8").splitlines():
        trec, query_id, value = line.split()[:3]
        if trec in names:
            expected[names[trec], query_id] = value
    # -c prints no lines for a query that the run lacks, and counts it in the mean.
    queries = {"301", "302", "303"} - ({"302"} if output == "out.test.aqc" else set())
    assert expected.keys() == {(n, q) for n in names.values() for q in (*queries, "all")}
    found = {
        (name, query_id): f"{result.value if query_id == 'all' else result.per_query[query_id]:.4f}"
        for name, result in evaluation.measures.items()
        for query_id in (*queries, "all")
    }
    assert found == expected
    if "302" not in queries:
        assert {result.per_query["302"] for result in evaluation.measures.values()} == {0.0}


def test_bm25_on_trec_dl_2019(shared_collection: SharedCollection) -> None:
    collection = load_collection(str(shared_collection("trec-dl-2019")))
    evaluation = evaluate(collection.qrels, collection.candidates("bm25"), ["nDCG@10"])
    # Pyserini's two-click reproductions, BM25 (k1=0.9, b=0.4) on the passages of 2019.
    assert f"{evaluation.measures['nDCG@10'].value:.4f}" == "0.5058"


def test_published_rerankers_on_trec_dl_2019(shared_collection: SharedCollection) -> None:
    folder = shared_collection("trec-dl-2019")
    qrels = read_qrels(folder / "qrels.txt")
    table = (folder / "runs-rankllm" / "SCORES.tsv").read_text(encoding="utf-8").splitlines()
    assert table[0].split("\t")[:4] == ["run", "ndcg_cut_10", "map_rel2", "recip_rank_rel2"]
    # Every eighth: five runs from the best to the worst.
    for line in table[1::8]:
        name, *expected = line.split("\t")[:4]
        run = read_run(folder / "runs-rankllm" / f"{name}.run.gz")
        results = evaluate(qrels, run, ["nDCG@10", "AP(rel=2)", "RR(rel=2)"]).measures
        assert [f"{result.value:.4f}" for result in results.values()] == expected
