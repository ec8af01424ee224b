"""``ranklens evaluate``: measures of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.data.errors import MissingResourceError

if TYPE_CHECKING:
    from ranklens.data.qrels import Qrels
    from ranklens.eval.measures import Evaluation


def evaluate(
    qrels: Annotated[
        str, typer.Argument(metavar="QRELS|COLLECTION", help="A qrels file, or a collection.")
    ],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="TREC run files.")],
    measure: Annotated[
        list[str] | None,
        typer.Option("--measure", "-m", help="nDCG@10, 'AP(rel=2)', RR@10, P@5, Judged@10, …"),
    ] = None,
    per_query: Annotated[bool, typer.Option("--per-query", help="Show every query.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Evaluate runs as trec_eval -c would, with a 95% interval.

    Ties are ordered by document id, descending; judged queries that a run lacks count as 0;
    queries that are not judged are left out.

    Example: ranklens evaluate sample:pydocs bm25.run reranked.run -m nDCG@10 -m Judged@10
    """
    from ranklens.cli.output import print_json, warn
    from ranklens.data.runs import read_run
    from ranklens.eval.measures import default_measures
    from ranklens.eval.measures import evaluate as evaluate_run

    judged, level, notes = load_qrels(qrels)
    measures = measure or default_measures(level)
    results = [(path, evaluate_run(judged, read_run(path), measures)) for path in runs]
    warnings = [
        *notes,
        *(f"{path}: {text}" for path, evaluation in results for text in evaluation.warnings),
    ]
    if as_json:
        rows = [_as_json(path, evaluation, per_query) for path, evaluation in results]
        print_json({"status": "ok", "results": rows, "warnings": warnings})
        return
    warn(warnings)
    _print(results, measures, per_query)


def load_qrels(spec: str) -> tuple[Qrels, int, tuple[str, ...]]:
    """Return judgements, the grade from which they count as relevant, and what to tell the user."""
    path = Path(spec).expanduser()
    # Of files, these are collections.
    requests = path.name.removesuffix(".gz").endswith(".jsonl")
    if path.is_file() and not requests:
        from ranklens.data.qrels import read_qrels

        return read_qrels(path), 1, ()
    from ranklens.data.coverage import absent_judged
    from ranklens.data.load import load_collection

    try:
        collection = load_collection(spec)
    except MissingResourceError as error:
        raise MissingResourceError(f"no qrels file {spec!r}, and {error}") from None
    judged = collection.judgements("evaluation")
    return judged, collection.relevance_level, (*collection.notes, *absent_judged(collection))


def _as_json(path: Path, evaluation: Evaluation, per_query: bool) -> dict[str, Any]:
    from ranklens.cli.report import measure_value

    measures = {}
    for name, result in evaluation.measures.items():
        measures[name] = measure_value(result)
        if per_query:
            measures[name]["per_query"] = dict(result.per_query)
    return {"run": str(path), "queries": evaluation.queries, "measures": measures}


def _print(results: list[tuple[Path, Evaluation]], measures: list[str], per_query: bool) -> None:
    from ranklens.cli.output import print_table

    if per_query:
        for path, evaluation in results:
            rows = [
                [query_id, *(f"{evaluation.measures[m].per_query[query_id]:.4f}" for m in measures)]
                for query_id in evaluation.measures[measures[0]].per_query
            ]
            print_table(str(path), ["query", *measures], rows)
    # A row per measure and run: runs stand under each other, and 80 columns are enough.
    rows = []
    for name in dict.fromkeys(measures):
        for path, evaluation in results:
            result = evaluation.measures[name]
            low, high = result.ci95
            rows.append([name, str(path), f"{result.value:.4f}", f"[{low:.3f}, {high:.3f}]"])
    print_table(
        f"{results[0][1].queries} judged queries, mean and 95% interval",
        ["measure", "run", "mean", "95% CI"],
        rows,
        text_columns=2,
    )
