"""``ranklens report``: runs as one HTML file to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ranklens.cli import options
from ranklens.data.errors import InvalidInputError, UsageError

_LARGE = 5_000_000
"""Bytes from which a browser on a phone becomes slow."""


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of `ranklens run`, or TREC run files."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path(
        "report.html"
    ),
    collection: Annotated[
        str | None,
        typer.Option(help=f"{options.COLLECTION_HELP} Run folders may know theirs."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Compare the others with this one; else the first."),
    ] = None,
    measure: options.MeasuresOption = None,
    preset: options.PresetOption = None,
    depth: Annotated[
        int, typer.Option(callback=options.positive, help="Documents to show of each list.")
    ] = 20,
    text: Annotated[
        int, typer.Option(min=0, metavar="CHARACTERS", help="Show so much of a document.")
    ] = 1000,
    queries: Annotated[
        int | None,
        typer.Option(metavar="N", callback=options.positive, help="Show the first N queries."),
    ] = None,
    attention: Annotated[
        int | None,
        typer.Option(
            metavar="QUERIES", min=0, help="Colour tokens of the first QUERIES; all, 0: none."
        ),
    ] = None,
    orders: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, help="Measure bias in N shuffled orders of each list."),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(metavar="QRELS", help="Other labels, to hold against the judgements."),
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option(
            metavar="attention:MODEL",
            help="Whose attention: where the model lies; of run files, over the first one.",
        ),
    ] = None,
    profile: options.ProfileOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Write a report that opens in any browser, without a network: one HTML file.

    It has measures with intervals, comparisons with the first run (paired t test, Holm's
    correction), every query with the lists side by side, documents with their tokens coloured by
    attention, heads, bias, judge agreement and environment. Attention is read anew: one forward
    pass a query. Runs without judgements have lists and attention only.

    Example: ranklens report runs/pydocs -o report.html
    """
    from ranklens.cli.html_report.build import Choice, build
    from ranklens.cli.html_report.page.render import render
    from ranklens.cli.html_report.reading import find_reader
    from ranklens.cli.html_report.sources import collection_of, read_sources
    from ranklens.cli.measuring import asked
    from ranklens.cli.output import note, print_json, warn
    from ranklens.cli.run_labels import run_labels
    from ranklens.data.files import atomic_writer
    from ranklens.data.load import load_collection
    from ranklens.data.qrels import read_qrels
    from ranklens.eval.measures import default_measures

    if orders is not None and attention == 0:
        raise UsageError("--orders reads attention; --attention 0 excludes it")
    _check(output)
    sources = read_sources(runs)
    loaded = load_collection(collection or collection_of(sources))
    measures, policy = asked(preset, measure, None)
    judged = {}
    for path, label in zip(labels or (), run_labels(labels or ()), strict=True):
        judged[label] = read_qrels(path)
    reader, doubts = find_reader(
        sources,
        depth,
        reranker=reranker,
        profile=profile,
        device=device,
        dtype=dtype,
        required=bool(attention) or orders is not None,
    )
    choice = Choice(
        measures=measures or default_measures(loaded.relevance_level),
        policy=policy,
        baseline=baseline,
        depth=depth,
        characters=text,
        queries=queries,
        attention=attention,
        permutations=orders or 0,
        arguments=_arguments(),
        warnings=doubts,
    )
    content = build(loaded, sources, choice, labels=judged, reader=reader)
    page = render(content.as_json())
    with atomic_writer(output) as stream:
        stream.write(page)
    size = output.stat().st_size
    warnings = list(content.warnings)
    if size > _LARGE:
        warnings.append(
            f"{size / 1e6:.1f} MB are slow to open; --queries, --depth, --text and --attention "
            "make the report smaller"
        )
    coloured = len(content.attention.documents) if content.attention else 0
    if as_json:
        counts = {
            "bytes": size,
            "runs": [run.name for run in content.runs],
            "queries": len(content.queries),
            "documents": len(content.documents),
            "coloured_queries": coloured,
        }
        print_json({"status": "ok", "file": str(output), **counts, "warnings": warnings})
        return
    warn(warnings)
    note(
        f"wrote {output}: {size / 1e6:.2f} MB, {len(content.runs)} runs, "
        f"{len(content.queries)} queries ({coloured} with tokens coloured), "
        f"{len(content.documents)} documents"
    )


def _check(output: Path) -> None:
    """Raise InvalidInputError for a file that cannot be written, or that is not a report."""
    from ranklens.cli.output import check_output

    check_output(output)
    if output.is_file() and output.stat().st_size:
        with output.open("rb") as stream:
            start = stream.read(200).lstrip().lower()
        if not start.startswith((b"<!doctype html", b"<html")):
            raise InvalidInputError(
                f"{output} is there and is not an HTML file; give another name, or remove it"
            )


def _arguments() -> list[str]:
    """Return the words that this command was called with."""
    import sys

    words = sys.argv[1:]
    return words[1:] if words[:1] == ["report"] else words
