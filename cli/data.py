"""``ranklens data``: what a collection holds, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.data.errors import InvalidInputError

if TYPE_CHECKING:
    from ranklens.data.findings import Finding
    from ranklens.data.inspection import Inspection, Spread

app = typer.Typer(
    no_args_is_help=True,
    help="Look into a collection before it is used.",
    epilog="Example: ranklens data validate sample:pydocs",
)

_SPREAD = ("min", "median", "mean", "95%", "max")


@app.command()
def info(
    collection: options.CollectionArgument,
    sample: options.SampleOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show counts, lengths and coverage of a collection as the other commands use it.

    Lengths are in words. Queries without judgements are left out where others have them.

    Example: ranklens data info sample:pydocs
    """
    from ranklens.cli.output import print_json, warn
    from ranklens.data.findings import Findings
    from ranklens.data.load import load_collection
    from ranklens.data.sampling import sampled
    from ranklens.data.validate import look_into

    loaded = load_collection(collection)
    if sample is not None:
        loaded = sampled(loaded, sample)
    findings = Findings()
    found = look_into(loaded, findings)
    warnings = [
        *loaded.notes,
        *(f"{one.part}: {_said(one)} ({one.examples[0]})" for one in findings.all()),
    ]
    if as_json:
        value = {"relevance_level": loaded.relevance_level, **_as_json(found)}
        print_json({"status": "ok", "collection": loaded.name, **value, "warnings": warnings})
        return
    warn(warnings)
    _print(loaded.name, found)


@app.command()
def validate(
    collection: options.CollectionArgument,
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN...]", help="TREC run files to check too.")
    ] = None,
    examples: Annotated[
        int, typer.Option(min=1, metavar="N", help="Examples of each problem.")
    ] = 3,
    as_json: options.JsonOption = False,
) -> None:
    """List everything that is wrong with a collection and with runs on it.

    An error keeps ranklens from using what it names: lines that cannot be read, ids that occur
    twice. A warning does not: judged documents that are not there, damaged characters. Ends with
    5 when there are errors.

    Example: ranklens data validate sample:pydocs bm25.run
    """
    import dataclasses

    from ranklens.cli.output import note, print_json, print_table
    from ranklens.data.findings import Findings
    from ranklens.data.validate import validate as validate_collection

    collected = Findings(examples)
    name, found = validate_collection(collection, runs or [], collected)
    findings = collected.all()
    errors = sum(one.level == "error" for one in findings)
    code = InvalidInputError.exit_code if errors else 0
    summary = (
        f"{name}: {found.documents:,} documents, {found.queries:,} queries, "
        f"{sum(found.judgements.values()):,} judgements; {errors} kinds of errors, "
        f"{len(findings) - errors} of warnings"
    )
    if as_json:
        print_json(
            {
                "status": "error" if errors else "ok",
                "exit_code": code,
                "message": summary,
                "collection": name,
                **_as_json(found),
                "findings": [dataclasses.asdict(one) for one in findings],
            },
            ascii_only=True,
        )
    else:
        if findings:
            print_table(
                name,
                ["level", "part", "problem", "examples", "count"],
                [
                    [one.level, one.part, one.problem, "\n".join(one.examples), f"{one.count:,}"]
                    for one in findings
                ],
                text_columns=4,
            )
        if found.runs:
            print_table(
                "runs",
                ["run", "queries", "documents", *(f"depth {one}" for one in _SPREAD)],
                [
                    [
                        run.name,
                        f"{run.queries:,}",
                        f"{run.documents:,}",
                        *(_numbers(run.depth) if run.depth else [""] * len(_SPREAD)),
                    ]
                    for run in found.runs
                ],
            )
        note(summary)
    if code:
        raise typer.Exit(code)


def _said(finding: Finding) -> str:
    return f"{finding.count:,} {finding.problem}"


def _as_json(found: Inspection) -> dict[str, Any]:
    import dataclasses

    value = dataclasses.asdict(found)
    value["judgements"] = {str(grade): count for grade, count in found.judgements.items()}
    return value


def _print(name: str, found: Inspection) -> None:
    from ranklens.cli.output import print_table

    total = found.documents
    rows = [
        ["documents", f"{total:,}"],
        ["  with a title", _share(found.titles, total)],
        ["  empty", _share(found.empty, total)],
        ["  identical to one before", _share(found.identical, total)],
        ["  with the id of a query", _share(found.query_ids, total)],
        ["queries", f"{found.queries:,}"],
    ]
    if found.judgements:
        rows += [
            ["  judged", _share(found.judged_queries, found.queries)],
            ["  without a relevant document", _share(found.without_relevant, found.queries)],
            ["judgements", f"{sum(found.judgements.values()):,}"],
            *([f"  grade {g}", f"{count:,}"] for g, count in found.judgements.items()),
            ["judged documents", f"{found.judged_documents:,}"],
            ["  in the collection", _share(found.judged_present, found.judged_documents)],
        ]
    else:
        rows.append(["judgements", "none"])
    print_table(name, ["", "count"], rows)
    spreads = {
        "words of a document": found.document_words,
        "words of a query": found.query_words,
        "judged documents of a query": found.judged_per_query,
        **{f"depth of {run.name} ({run.queries} queries)": run.depth for run in found.runs},
    }
    print_table(
        "spread",
        ["", *_SPREAD],
        [[label, *_numbers(spread)] for label, spread in spreads.items() if spread is not None],
    )


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if whole else str(part)


def _numbers(spread: Spread) -> list[str]:
    return [
        f"{spread.minimum:,}",
        f"{spread.median:,.0f}",
        f"{spread.mean:,.1f}",
        f"{spread.p95:,.0f}",
        f"{spread.maximum:,}",
    ]
