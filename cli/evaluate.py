"""``ranklens evaluate``: measures of runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.data.errors import InvalidInputError, UsageError

if TYPE_CHECKING:
    from ranklens.eval.measures import Evaluation


def evaluate(
    qrels: options.QrelsArgument,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="TREC run files.")],
    measure: Annotated[
        list[str] | None,
        typer.Option("--measure", "-m", help="nDCG@10, 'AP(rel=2)', RR@10, P@5, Judged@10, …"),
    ] = None,
    preset: options.PresetOption = None,
    policy: options.PolicyOption = None,
    first_stage: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Show beside each value that of the run that was reranked."
        ),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            callback=options.positive,
            help="Candidates that were reranked, for the ceiling; all unless given.",
        ),
    ] = None,
    residuals: Annotated[
        bool,
        typer.Option(help="Show what each value is at most if unjudged documents were relevant."),
    ] = False,
    per_query: Annotated[bool, typer.Option("--per-query", help="Show every query.")] = False,
    trec_eval: Annotated[
        bool, typer.Option("--trec-eval", help="Print as trec_eval does.")
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Evaluate runs as trec_eval -c would, with a 95% interval.

    Ties are ordered by document id, descending; judged queries that a run lacks count as 0;
    queries that are not judged are left out.

    Example: ranklens evaluate sample:pydocs bm25.run reranked.run -m nDCG@10 -m Judged@10
    """
    from ranklens.cli.measuring import asked, load_qrels
    from ranklens.cli.output import print_json, warn
    from ranklens.data.runs import read_run
    from ranklens.eval.measures import default_measures
    from ranklens.eval.measures import evaluate as evaluate_run

    if depth is not None and first_stage is None:
        raise UsageError("--depth is about the ceiling of --first-stage; give that too")
    if trec_eval and (as_json or residuals or first_stage):
        raise UsageError("--trec-eval does not go with --json, --residuals or --first-stage")
    measures, chosen = asked(preset, measure, policy)
    judged, level, notes = load_qrels(qrels)
    measures = measures or default_measures(level)
    results, warnings = [], [*notes]
    stage = None
    if first_stage:
        from ranklens.eval.first_stage import first_stage as evaluated_stage

        with _naming(first_stage):
            stage = evaluated_stage(judged, read_run(first_stage), depth, measures, chosen)
        warnings += (f"{first_stage}: {text}" for text in stage.evaluation.warnings)
    for path in runs:
        run = read_run(path)
        with _naming(path):
            evaluation = evaluate_run(judged, run, measures, chosen)
        warnings += (f"{path}: {text}" for text in evaluation.warnings if path != first_stage)
        beside: dict[str, Mapping[str, float | None]] = {}
        if stage is not None:
            _check_same_queries(path, evaluation, stage.evaluation)
            beside = {"first_stage": _values(stage.evaluation), "ceiling": stage.ceiling}
            if left := stage.left(judged, run):
                warnings.append(
                    f"{path}: {len(left)} queries have documents that are not among the first "
                    f"{stage.depth} of {first_stage} (first: {left[0]!r}): it is no reranking of "
                    "these, and the ceiling does not bound it"
                )
        if residuals:
            from ranklens.eval.residuals import upper_bounds

            beside["upper"] = upper_bounds(judged, run, measures, chosen)
        results.append(_Result(path, run.tag, evaluation, beside))
    if as_json:
        rows = [result.as_json(per_query) for result in results]
        told: dict[str, Any] = {"status": "ok", "results": rows}
        if stage is not None:
            told["first_stage"] = {"run": str(first_stage), "depth": stage.depth}
        print_json(told | {"warnings": warnings})
        return
    warn(warnings)
    if trec_eval:
        for result in results:
            _print_as_trec_eval(result, per_query)
        return
    ceiling = f", ceiling of the first {stage.depth} of {first_stage}" if stage else ""
    _print(results, measures, per_query, ceiling)


class _Result:
    """A run's evaluation, and by the name of a column what stands beside each measure's value."""

    def __init__(
        self,
        path: Path,
        tag: str,
        evaluation: Evaluation,
        beside: Mapping[str, Mapping[str, float | None]],
    ) -> None:
        self.path, self.tag, self.evaluation = path, tag, evaluation
        self.beside: dict[str, dict[str, float | None]] = {
            column: dict(values) for column, values in beside.items()
        }
        if "first_stage" in beside:
            self.beside["change"] = {
                name: evaluation.measures[name].value - (value or 0.0)
                for name, value in beside["first_stage"].items()
            }

    def as_json(self, per_query: bool) -> dict[str, Any]:
        """Return the result as JSON holds it."""
        from ranklens.cli.pipeline_report import measure_value

        measures = {}
        for name, result in self.evaluation.measures.items():
            measures[name] = measure_value(result)
            measures[name] |= {column: values[name] for column, values in self.beside.items()}
            if per_query:
                measures[name]["per_query"] = dict(result.per_query)
        return {
            "run": str(self.path),
            "queries": self.evaluation.queries,
            "policy": str(self.evaluation.policy),
            "measures": measures,
        }


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with its run."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from None


def _values(evaluation: Evaluation) -> dict[str, float | None]:
    return {name: result.value for name, result in evaluation.measures.items()}


def _check_same_queries(path: Path, evaluation: Evaluation, first: Evaluation) -> None:
    """Raise InvalidInputError where means cannot be subtracted, being of other queries."""
    one, other = (set(next(iter(e.measures.values())).per_query) for e in (evaluation, first))
    if one != other:
        raise InvalidInputError(
            f"{path} and the first stage do not have the same judged queries (only one has "
            f"{min(one ^ other)!r}): with missing=skip their means are of other queries; take "
            "missing=zero, or `ranklens compare`"
        )


def _print_as_trec_eval(result: _Result, per_query: bool) -> None:
    from ranklens.cli.escape import printable
    from ranklens.cli.output import print_text
    from ranklens.eval.measure_names import parse_measure

    evaluation = result.evaluation
    parsed = [parse_measure(name) for name in evaluation.measures]

    def line(position: int, query_id: str, value: float) -> str:
        measure = parsed[position]
        digits = 0 if measure.aggregate == "sum" else 4
        return f"{measure.trec or measure.name:<22}\t{printable(query_id)}\t{value:.{digits}f}"

    rows = list(evaluation.measures.values())
    if per_query:
        for query_id in rows[0].per_query:
            for position, row in enumerate(rows):
                print_text(line(position, query_id, row.per_query[query_id]))
    print_text(f"{'runid':<22}\tall\t{printable(result.tag)}")
    for position, row in enumerate(rows):
        print_text(line(position, "all", row.value))


_COLUMNS = {"first_stage": "first stage", "ceiling": "ceiling", "upper": "at most"}


def _print(results: list[_Result], measures: list[str], per_query: bool, ceiling: str) -> None:
    from ranklens.cli.output import print_table
    from ranklens.eval.measure_names import parse_measure

    if per_query:
        for result in results:
            found = result.evaluation.measures
            rows = [
                [query_id, *(f"{found[name].per_query[query_id]:.4f}" for name in measures)]
                for query_id in found[measures[0]].per_query
            ]
            print_table(str(result.path), ["query", *measures], rows)
    # A row per measure and run: runs stand under each other, and 80 columns are enough.
    columns = list(results[0].beside)
    # Counts are added up, and trec_eval's gm_ measures are geometric means.
    plain = all(parse_measure(name).aggregate == "mean" for name in measures)
    mean = "mean" if plain else "value"
    rows = []
    for name in measures:
        for result in results:
            found = result.evaluation.measures
            low, high = found[name].ci95
            row = [name, str(result.path), f"{found[name].value:.4f}", f"[{low:.3f}, {high:.3f}]"]
            for column in columns:
                value = result.beside[column][name]
                shown = "" if value is None else f"{value:{'+' * (column == 'change')}.4f}"
                row.append(shown)
            rows.append(row)
    # Where missing queries are left out, runs differ in how many they have.
    counts = sorted({result.evaluation.queries for result in results})
    print_table(
        f"{' to '.join(map(str, dict.fromkeys([counts[0], counts[-1]])))} judged queries, "
        f"{mean} and 95% interval ({results[0].evaluation.policy}){ceiling}",
        ["measure", "run", mean, "95% CI", *(_COLUMNS.get(name, name) for name in columns)],
        rows,
        text_columns=2,
    )
