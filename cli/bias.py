"""``ranklens bias``: how far scores depend on slot, order and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.cli.specs import DEFAULT_RERANKER, AttentionSpec

if TYPE_CHECKING:
    from ranklens.data.qrels import Qrels
    from ranklens.rerank.bias import BiasReport, Estimate, Reading

_RATIO = 0.5


def bias(
    collection: options.CollectionArgument,
    candidates: options.FirstStageOption = None,
    queries: Annotated[int, typer.Option(min=1, help="Use the first so many queries.")] = 20,
    depth: options.DepthOption = 20,
    permutations: Annotated[int, typer.Option(min=2, help="Shuffles per query.")] = 4,
    seed: Annotated[int, typer.Option(help="For the shuffles.")] = 0,
    reranker: options.AttentionOption = DEFAULT_RERANKER,
    profile: options.ProfileOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Report how far scores depend on slot in the prompt, order and length of documents.

    The length-bias test (CoRe's) keeps queries whose longest relevant document is at most half
    as long as the longest irrelevant one, in tokens. GAL is the share of relevant documents
    that score above the longest irrelevant one. Unjudged documents count as irrelevant.

    Example: ranklens bias sample:pydocs --queries 10 --depth 10
    """
    from ranklens.cli.lists import candidate_lists
    from ranklens.cli.output import note, print_json, warn
    from ranklens.cli.progress import progress
    from ranklens.cli.stages import request_numbers
    from ranklens.rerank.bias import bias_report, read_orders

    spec = AttentionSpec.parse(reranker, profile, device, dtype)
    loaded, lists = candidate_lists(collection, candidates, depth, limit=queries)
    note(f"loading {spec.model}")
    engine = spec.load()
    readings = []
    total = sum(len(documents) for _, documents in lists) * (permutations + 1)
    numbers = request_numbers(loaded)
    with progress("reading orders", total, "docs") as advance:
        for query, documents in lists:
            readings.append(
                read_orders(
                    engine,
                    query,
                    documents,
                    permutations=permutations,
                    seed=seed,
                    request=numbers[query.id],
                )
            )
            advance(len(documents) * (permutations + 1))
    ids = {query.id: [document.id for document in documents] for query, documents in lists}
    report = bias_report(readings)
    length_test = _length_test(readings, ids, loaded.qrels, loaded.relevance_level)
    warnings = []
    if len({len(documents) for documents in ids.values()}) > 1:
        warnings.append("queries have different numbers of candidates; late slots have fewer")
    if not length_test["queries"]:
        warnings.append(
            f"no query has relevant documents at most {_RATIO} times as long as its longest "
            "irrelevant one: no length-bias test"
        )
    if as_json:
        print_json(
            {
                "status": "ok",
                "collection": loaded.name,
                "profile": engine.profile.name,
                "queries": len(readings),
                "permutations": permutations,
                **_as_json(report),
                "length_test": length_test,
                "warnings": warnings,
            }
        )
        return
    warn(warnings)
    _show(loaded.name, report, length_test)


def _length_test(
    readings: Sequence[Reading],
    ids: Mapping[str, Sequence[str]],
    qrels: Qrels,
    relevance_level: int,
) -> dict[str, Any]:
    """Return GAL and nDCG@10 of the queries whose relevant documents are short."""
    from ranklens.data.records import ScoredDoc
    from ranklens.data.runs import Run
    from ranklens.eval.measures import evaluate
    from ranklens.rerank.bias import Estimate, gold_above_longest, short_gold

    chosen = []
    for reading in readings:
        grades = qrels.get(reading.query_id, {})
        relevant = [grades.get(i, 0) >= relevance_level for i in ids[reading.query_id]]
        if short_gold(reading.lengths, relevant, _RATIO):
            chosen.append((reading, relevant))
    result: dict[str, Any] = {"ratio": _RATIO, "queries": len(chosen)}
    for name in ("calibrated", "uncalibrated"):
        scores = {
            reading.query_id: reading.own if name == "calibrated" else reading.uncalibrated
            for reading, _ in chosen
        }
        known = {query_id: values for query_id, values in scores.items() if values is not None}
        if not known:
            result[name] = None
            continue
        gal = Estimate.of(
            [
                gold_above_longest(known[reading.query_id], reading.lengths, relevant)
                for reading, relevant in chosen
            ]
        )
        run = Run(
            {
                query_id: sorted(map(ScoredDoc, ids[query_id], values), key=lambda doc: -doc.score)
                for query_id, values in known.items()
            }
        )
        ndcg = evaluate(qrels.restricted_to(known), run, ["nDCG@10"]).measures["nDCG@10"]
        result[name] = {
            "GAL": _estimate(gal),
            "nDCG@10": {"value": ndcg.value, "ci95": list(ndcg.ci95)},
        }
    return result


def _as_json(report: BiasReport) -> dict[str, Any]:
    return {
        "slots": [_estimate(slot) for slot in report.slot_z],
        "slot_spearman": _estimate(report.slot),
        "kendall_tau": _estimate(report.tau),
        "same_best": _estimate(report.top_stays),
        "z_deviation": _estimate(report.wobble),
        "length_spearman": _estimate(report.length),
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"mean": estimate.mean, "error": estimate.error, "queries": estimate.queries}


def _show(name: str, report: BiasReport, length_test: Mapping[str, Any]) -> None:
    from ranklens.cli.output import print_table

    rows = [
        ("score and slot (Spearman, 0: none)", report.slot),
        ("rankings of two orders (Kendall tau, 1: alike)", report.tau),
        ("two orders agree on the best document", report.top_stays),
        ("a document's z over orders (deviation, 0: none)", report.wobble),
        ("score and length in tokens (Spearman)", report.length),
    ]
    print_table(
        f"{name}: {report.tau.queries} queries",
        ["bias", "mean", "standard error"],
        [[label, *_cells(estimate)] for label, estimate in rows],
    )
    print_table(
        "mean z by slot (first in the prompt: 1)",
        ["slot", "mean z", "standard error"],
        [[str(slot), *_cells(e)] for slot, e in enumerate(report.slot_z, start=1)],
        text_columns=0,
    )
    tested = [
        [kind, f"{figures['GAL']['mean']:.4f}", f"{figures['nDCG@10']['value']:.4f}"]
        for kind in ("calibrated", "uncalibrated")
        if (figures := length_test[kind])
    ]
    if tested:
        print_table(
            f"length-bias test: {length_test['queries']} queries with short relevant documents",
            ["scores", "GAL", "nDCG@10"],
            tested,
        )


def _cells(estimate: Estimate) -> list[str]:
    return ["" if x is None else f"{x:.4f}" for x in (estimate.mean, estimate.error)]
