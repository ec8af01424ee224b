"""``ranklens compare``: runs against a baseline or each other, with tests."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.data.errors import UsageError

if TYPE_CHECKING:
    from ranklens.data.qrels import Qrels
    from ranklens.data.runs import Run
    from ranklens.eval.comparison import Comparison, Pair
    from ranklens.eval.movers import QueryChange

    Changes = tuple[str, str, tuple[list[QueryChange], list[QueryChange]]]


class Layout(StrEnum):
    """How the result is printed."""

    TABLE = "table"
    MARKDOWN = "markdown"
    LATEX = "latex"


def compare(
    qrels: options.QrelsArgument,
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="TREC run files, two or more.")
    ],
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Compare the others with this one; of two runs, the first."
        ),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option("--measure", "-m", help="nDCG@10 (the default), 'AP(rel=2)', RR@10, …"),
    ] = None,
    preset: options.PresetOption = None,
    policy: options.PolicyOption = None,
    test: Annotated[str, typer.Option(help="t, wilcoxon, randomisation or bootstrap.")] = "t",
    correction: Annotated[
        str, typer.Option(help="holm, bonferroni, tukey (randomised); bh, by; or none.")
    ] = "holm",
    queries: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            callback=options.positive,
            help="Show the N largest wins and losses with the documents that moved.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="For tests by chance: 10,000 samples.")] = 0,
    layout: Annotated[
        Layout | None, typer.Option("--format", help="table (the default), markdown or latex.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Compare runs: paired tests over queries, corrected, and how the rankings differ.

    Without --baseline, three runs and more are compared pair by pair. The pairs of one measure
    are corrected together: Holm's correction holds for any test and any dependence; tukey
    mostly finds more of all pairs. Significant is a corrected p below 0.05; ties are equal values.

    Example: ranklens compare sample:pydocs bm25.run reranked.run --queries 3
    """
    from ranklens.cli.measuring import asked, load_qrels
    from ranklens.cli.output import print_json, warn
    from ranklens.cli.run_labels import run_labels
    from ranklens.data.runs import read_run
    from ranklens.eval.comparison import compare as compare_runs

    if as_json and layout is not None:
        raise UsageError("--json excludes --format")
    if queries is not None and layout in (Layout.MARKDOWN, Layout.LATEX):
        raise UsageError(f"--queries excludes --format {layout}; the table or --json show queries")
    if len(runs) < 2:
        raise UsageError("a comparison needs two runs or more; `ranklens evaluate` takes one")
    labels = run_labels(runs)
    base = _baseline(baseline, runs, labels)
    if queries is not None and base is None:
        raise UsageError("--queries of more than two runs needs --baseline RUN")
    measures, chosen = asked(preset, measure, policy)
    judged, _, notes = load_qrels(qrels)
    loaded = {label: read_run(path) for label, path in zip(labels, runs, strict=True)}
    comparison = compare_runs(
        judged,
        loaded,
        measures or ["nDCG@10"],
        baseline=base,
        test=test,
        correction=correction,
        policy=chosen,
        seed=seed,
    )
    warnings = [*notes, *comparison.warnings]
    changes = _changes(judged, loaded, comparison, queries) if queries is not None else []
    if as_json:
        print_json(_as_json(comparison, dict(zip(labels, runs, strict=True)), changes, warnings))
        return
    warn(warnings)
    from ranklens.cli import compare_tables

    if layout is Layout.MARKDOWN:
        compare_tables.print_markdown(comparison)
    elif layout is Layout.LATEX:
        compare_tables.print_latex(comparison)
    else:
        compare_tables.print_comparison(comparison)
        for run, against, (wins, losses) in changes:
            compare_tables.print_changes(comparison, run, against, [*wins, *losses])


def _baseline(given: str | None, paths: list[Path], labels: list[str]) -> str | None:
    """Return the label of the baseline, which is given as a path or a label."""
    if given is None:
        return labels[0] if len(labels) == 2 else None
    for path, label in zip(paths, labels, strict=True):
        if given in (str(path), label) or Path(given).expanduser() == path.expanduser():
            return label
    raise UsageError(f"--baseline {given!r} is none of the runs: {', '.join(map(str, paths))}")


def _changes(
    qrels: Qrels, runs: dict[str, Run], comparison: Comparison, count: int
) -> list[Changes]:
    """Return the largest wins and losses of every run against the baseline, first measure."""
    from ranklens.eval.movers import cutoff, query_changes

    measure = comparison.pairs[0].measure
    found = []
    for run, against in comparison.compared:
        values, other = (
            comparison.runs[name].measures[measure].per_query for name in (run, against)
        )
        changes = query_changes(
            qrels,
            runs[run],
            runs[against],
            values,
            other,
            count,
            cutoff(measure),
            comparison.policy,
        )
        found.append((run, against, changes))
    return found


def _as_json(
    comparison: Comparison, paths: dict[str, Path], changes: list[Changes], warnings: list[str]
) -> dict[str, Any]:
    from ranklens.cli.pipeline_report import measure_value
    from ranklens.eval.stats.family import LEVEL

    value: dict[str, Any] = {
        "status": "ok",
        "queries": comparison.queries,
        "baseline": comparison.baseline,
        "test": comparison.test,
        "correction": comparison.correction,
        "policy": str(comparison.policy),
        "family": len(comparison.compared),
        "level": LEVEL,
        "runs": [
            {
                "run": str(paths[name]),
                "label": name,
                "missing_queries": list(run.missing),
                "unjudged@10": run.unjudged,
                "measures": {m: measure_value(result) for m, result in run.measures.items()},
            }
            for name, run in comparison.runs.items()
        ],
        "pairs": [_pair(pair) for pair in comparison.pairs],
        "overlaps": [_overlap(comparison, run, against) for run, against in comparison.compared],
    }
    if changes:
        value["changes"] = [
            {
                "run": run,
                "against": against,
                "measure": comparison.pairs[0].measure,
                "wins": [_change(change) for change in wins],
                "losses": [_change(change) for change in losses],
            }
            for run, against, (wins, losses) in changes
        ]
    return {**value, "warnings": warnings}


def _pair(pair: Pair) -> dict[str, Any]:
    found = pair.effect
    return {
        "measure": pair.measure,
        "run": pair.run,
        "against": pair.against,
        "difference": found.difference,
        "ci95": found.ci95 and list(found.ci95),
        "p": pair.p,
        "p_corrected": pair.p_corrected,
        "significant": pair.significant,
        "wins": found.wins,
        "ties": found.ties,
        "losses": found.losses,
        "superiority": found.superiority,
        "d_z": found.d_z,
    }


def _overlap(comparison: Comparison, run: str, against: str) -> dict[str, Any]:
    found = comparison.overlap(run, against)
    values = {"jaccard@10": found.jaccard, "rbo": found.rbo, "queries": found.queries}
    return {"run": run, "against": against, **values}


def _change(change: QueryChange) -> dict[str, Any]:
    return {**asdict(change), "difference": change.difference}
