"""The result of a pipeline run: first stage, reranked and ceiling, measure by measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ranklens.cli.output import print_table
from ranklens.data.qrels import Qrels
from ranklens.data.runs import Run
from ranklens.eval.ceiling import ceiling_run
from ranklens.eval.measures import MeasureResult, evaluate


def measure_value(result: MeasureResult) -> dict[str, Any]:
    """Return a measure as JSON holds it."""
    return {"value": result.value, "ci95": list(result.ci95)}


def pipeline_metrics(
    qrels: Qrels, first_stage: Run, reranked: Run, depth: int, measures: Sequence[str]
) -> dict[str, Any]:
    """Return the metrics of a pipeline: three runs, the same queries, the same measures.

    The ceiling orders the first ``depth`` candidates by their grades: no reranker of this
    depth can do better on nDCG.
    """
    runs = {
        "first_stage": first_stage,
        "reranked": reranked,
        "ceiling": ceiling_run(first_stage, qrels, depth),
    }
    evaluations = {name: evaluate(qrels, run, measures) for name, run in runs.items()}
    return {
        "queries": len(qrels),
        "depth": depth,
        "first_stage": first_stage.tag,
        "measures": {
            measure: {
                name: measure_value(evaluation.measures[measure])
                for name, evaluation in evaluations.items()
            }
            for measure in measures
        },
        "warnings": list(evaluations["first_stage"].warnings),
    }


def print_metrics(metrics: Mapping[str, Any], name: str) -> None:
    """Print the table of a pipeline run."""
    rows = []
    for measure, values in metrics["measures"].items():
        first, after, best = (
            values[run]["value"] for run in ("first_stage", "reranked", "ceiling")
        )
        low, high = values["reranked"]["ci95"]
        rows.append(
            [measure, f"{first:.4f}", f"{after:.4f}", f"[{low:.3f}, {high:.3f}]",
             f"{after - first:+.4f}", f"{best:.4f}"]
        )  # fmt: skip
    print_table(
        f"{name}: {metrics['queries']} queries, depth {metrics['depth']}",
        ["measure", metrics["first_stage"], "reranked", "95% CI", "change", "ceiling"],
        rows,
    )
