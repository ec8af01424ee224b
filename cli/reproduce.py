"""``ranklens reproduce``: published figures, measured here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.data.errors import MissingResourceError, PartialError, RanklensError, UsageError

if TYPE_CHECKING:
    from ranklens.cli.reference_runs import Outcome
    from ranklens.eval.reference import ReferenceRow

_ROWS = Path("benchmarks/reference.yaml")


def reproduce(
    rows: Annotated[
        list[str] | None,
        typer.Argument(metavar="ROW", help="Rows by name, or all of a condition; else all."),
    ] = None,
    file: Annotated[
        Path, typer.Option("--rows", metavar="FILE", help="The reference rows (YAML).")
    ] = _ROWS,
    collections: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where folders of test sets lie, each under its name."),
    ] = None,
    list_rows: Annotated[bool, typer.Option("--list", help="Show the rows, run nothing.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Make the runs behind published figures and compare, with the data that is here.

    Nothing is downloaded: a set is a folder in --collections, or what ir_datasets has fetched
    before; the model of dense and hybrid rows is one that was pulled (`ranklens models pull`).
    Ends with 0 when every row that ran is within its tolerance, 6 when one is off,
    4 when none could run, 7 when it was interrupted.

    Example: ranklens reproduce bm25s/scifact --collections ../shared/collections
    """
    from ranklens.cli.output import note, print_json
    from ranklens.eval.reference import read_reference

    chosen = _choose(read_reference(file), rows or [], file)
    if collections is not None and not collections.is_dir():
        raise MissingResourceError(f"--collections {collections}: there is no such folder")
    if list_rows:
        if as_json:
            print_json({"status": "ok", "rows": [_described(row) for row in chosen]})
        else:
            _print_rows(chosen)
        return
    from ranklens.cli.reference_runs import reproduce_row

    outcomes: list[Outcome] = []
    interrupted = False
    try:
        for row in chosen:
            outcomes.append(reproduce_row(row, collections))  # noqa: PERF401
    except KeyboardInterrupt:
        # What has been measured took minutes and is told.
        interrupted = True
    ran = [outcome for outcome in outcomes if outcome.ran]
    good = sum(outcome.status == "OK" for outcome in ran)
    if as_json:
        status = "nothing ran" if not ran else "ok" if good == len(ran) else "off"
        status = "interrupted" if interrupted else status
        print_json({"status": status, "rows": [_as_json(outcome) for outcome in outcomes]})
    else:
        _print(outcomes)
    note(f"{good} of {len(ran)} rows that ran are OK; {len(outcomes) - len(ran)} did not run")
    if interrupted:
        raise PartialError(f"interrupted behind {len(outcomes)} of {len(chosen)} rows")
    if good < len(ran):
        raise typer.Exit(RanklensError.exit_code)
    if not ran:
        raise typer.Exit(MissingResourceError.exit_code)


def _choose(
    known: Sequence[ReferenceRow], names: Sequence[str], file: Path
) -> Sequence[ReferenceRow]:
    """Return the rows with these names, or of the conditions with these names; all without any."""
    for name in names:
        if not any(_called(row, name) for row in known):
            conditions = dict.fromkeys(row.name.partition("/")[0] for row in known)
            alike = [row.name for row in known if row.collection.name == name.rpartition("/")[2]]
            raise UsageError(
                f"no row {name!r} in {file}; its conditions are {', '.join(conditions)}"
                + (f"; rows of that set: {', '.join(alike)}" if alike else "")
                + " (--list shows all rows)"
            )
    return [row for row in known if not names or any(_called(row, name) for name in names)]


def _called(row: ReferenceRow, name: str) -> bool:
    return row.name == name or row.name.startswith(f"{name}/")


def _described(row: ReferenceRow) -> dict[str, Any]:
    made: dict[str, Any] = (
        {"candidates": row.candidates}
        if row.kind == "candidates"
        else {
            "retriever": row.retriever,
            "options": dict(row.options),
            "remove_query": row.remove_query,
        }
    )
    where = row.collection
    return {
        "row": row.name,
        "kind": row.kind,
        **made,
        "collection": {"irds": where.irds, "folder": where.folder},
        "expected": dict(row.expected),
        "tolerance": row.tolerance,
        "source": row.source,
    }


def _as_json(outcome: Outcome) -> dict[str, Any]:
    measures = {
        found.measure: {
            "measured": found.measured,
            "expected": found.expected,
            "difference": found.difference,
            "ok": found.ok,
        }
        for found in outcome.comparisons
    }
    described = _described(outcome.row) | {"status": outcome.status, "measures": measures}
    return described | ({"reason": outcome.reason} if outcome.reason else {})


def _print_rows(rows: Sequence[ReferenceRow]) -> None:
    from ranklens.cli.output import print_table

    print_table(
        f"{len(rows)} rows",
        ["row", "kind", "made by", "expected", "tolerance"],
        [
            [
                row.name,
                row.kind,
                row.candidates or _made_by(row),
                ", ".join(f"{measure} {value:.4f}" for measure, value in row.expected.items()),
                f"{row.tolerance:g}",
            ]
            for row in rows
        ],
        text_columns=4,
    )


def _made_by(row: ReferenceRow) -> str:
    return " ".join([row.retriever, *(f"{key}={value}" for key, value in row.options.items())])


def _print(outcomes: Sequence[Outcome]) -> None:
    from ranklens.cli.output import note, print_table

    lines = []
    for outcome in outcomes:
        if not outcome.comparisons:
            measures = ", ".join(outcome.row.expected)
            lines.append([outcome.row.name, measures, outcome.status, "", "", ""])
        for found in outcome.comparisons:
            # A measure can be within the tolerance where another one of its row is not.
            verdict = "OK" if found.ok else f"off by {abs(found.difference):.4f}"
            lines.append(
                [outcome.row.name, found.measure, verdict, f"{found.measured:.4f}",
                 f"{found.expected:.4f}", f"{round(found.difference, 4) + 0.0:+.4f}"]
            )  # fmt: skip
    print_table(
        "published and measured",
        ["row", "measure", "verdict", "measured", "expected", "difference"],
        lines,
        text_columns=3,
    )
    # Rows of one set, or of one retriever, lack the same.
    lacking: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.reason:
            lacking.setdefault(outcome.reason, []).append(outcome.row.name)
    for reason, names in lacking.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        note(f"{names[0]}{more}: {reason}")
