"""Published values on real judgements and runs."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ranklens.data.load import load_collection
from ranklens.data.qrels import read_qrels
from ranklens.data.runs import read_run
from ranklens.eval.measure_presets import preset
from ranklens.eval.measures import evaluate
from ranklens.eval.policy import Policy

SharedCollection = Callable[[str], Path]

# trec_eval 9.0.4's own test: output, qrels, run, level (-l), depth (-M), lines compared.
TREC_EVAL_CASES = [
    ("out.test", "qrels.test", "results.test", 1, None, 29),
    ("out.test.a", "qrels.test", "results.test", 1, None, 93),
    ("out.test.aq", "qrels.test", "results.test", 1, None, 363),
    ("out.test.aqc", "qrels.test", "results.trunc", 1, None, 273),
    ("out.test.aqcM", "qrels.test", "results.trunc", 1, 100, 273),
    ("out.test.aql", "qrels.rel_level", "results.test", 2, None, 363),
    ("out.test.meas_params", "qrels.test", "results.test", 1, None, 80),
]
# Of these lines there is no measure here: texts, and two lists of several parameters.
NOT_MEASURES = {"runid", "relstring", "relstring_20", "utility_2,-1,0,0", "11pt_avg_.25,.5,.75"}
WITHOUT_LEVEL = {"num_q", "num_ret"}
OTHERWISE_NAMED = {"ndcg_1=3,2=9,4=4.5": "nDCG(gains={1:3,2:9,4:4.5})"}


def name_of(trec: str, level: int) -> str:
    if level == 1 or trec in WITHOUT_LEVEL or re.fullmatch(r"ndcg(_cut_\d+)?", trec):
        return OTHERWISE_NAMED.get(trec, trec)
    return f"{trec}(rel={level})"


@pytest.mark.parametrize(
    ("output", "qrels", "run", "level", "depth", "count"),
    TREC_EVAL_CASES,
    ids=[case[0] for case in TREC_EVAL_CASES],
)
def test_trec_evals_own_test_files(
    shared_collection: SharedCollection,
    output: str,
    qrels: str,
    run: str,
    level: int,
    depth: int | None,
    count: int,
) -> None:
    folder = shared_collection("trec_eval-testdata")
    expected: dict[tuple[str, str], str] = {}
    for line in (folder / output).read_text(encoding="utf-8").splitlines():
        trec, query_id, value = line.split()[:3]
        if trec not in NOT_MEASURES:
            expected[name_of(trec, level), query_id] = value
    evaluation = evaluate(
        read_qrels(folder / qrels),
        read_run(folder / run),
        list(dict.fromkeys(name for name, _ in expected)),
        Policy(depth=depth),
    )
    found = {}
    for name, query_id in expected:
        result = evaluation.measures[name]
        number = result.value if query_id == "all" else result.per_query[query_id]
        found[name, query_id] = f"{number:.0f}" if name.startswith("num_") else f"{number:.4f}"
    assert found == expected
    assert len(found) == count


def test_a_query_that_the_run_lacks_counts_0(shared_collection: SharedCollection) -> None:
    folder = shared_collection("trec_eval-testdata")
    names = ["AP", "nDCG", "Rprec", "Bpref", "IPrec@0.1", "SetF", "P@5", "Success@5", "NumRet"]
    run = read_run(folder / "results.trunc")
    measures = evaluate(read_qrels(folder / "qrels.test"), run, names).measures
    assert "302" not in run
    assert {result.per_query["302"] for result in measures.values()} == {0.0}
    assert [name for name, result in measures.items() if not result.per_query["301"]] == [
        "P@5",
        "Success@5",
    ]


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


def test_presets_give_the_official_figures(shared_collection: SharedCollection) -> None:
    folder = shared_collection("trec-dl-2019")
    qrels = read_qrels(folder / "qrels.txt")
    header, first, *_ = (folder / "runs-rankllm" / "SCORES.tsv").read_text().splitlines()
    expected = dict(zip(header.split("\t"), first.split("\t"), strict=True))
    run = read_run(folder / "runs-rankllm" / f"{expected['run']}.run.gz")
    trec_dl = preset("trec-dl")
    measures = evaluate(qrels, run, trec_dl.measures, trec_dl.policy).measures
    found = {name: f"{result.value:.4f}" for name, result in measures.items()}
    assert found["nDCG@10"] == expected["ndcg_cut_10"]
    assert found["AP(rel=2)"] == expected["map_rel2"]
    assert found["RR(rel=2)"] == expected["recip_rank_rel2"]


def test_ap_at_100_is_trec_evals_depth_of_100(shared_collection: SharedCollection) -> None:
    folder = shared_collection("trec_eval-testdata")
    qrels, run = read_qrels(folder / "qrels.rel_level"), read_run(folder / "results.test")
    names = ["AP(rel=2)@100", "RR(rel=2)@100"]
    cut = evaluate(qrels, run, names).measures
    deep = evaluate(qrels, run, ["AP(rel=2)", "RR(rel=2)"], Policy(depth=100)).measures
    assert [result.per_query for result in cut.values()] == [
        pytest.approx(result.per_query, abs=1e-15) for result in deep.values()
    ]
    assert set(names) < set(preset("trec-dl-v2").measures)
