"""``ranklens export``: runs and results in the formats that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ranklens.cli import export_tables, options
from ranklens.cli.export_mteb import mteb, mteb_predictions
from ranklens.data.errors import InvalidInputError, UsageError

app = typer.Typer(
    no_args_is_help=True,
    help="Write runs and results for other tools and for leaderboards.",
    epilog="Example: ranklens export latex sample:pydocs bm25.run reranked.run",
)
FileOption = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A TREC run file.")]

app.command("mteb")(mteb)
app.command("mteb-predictions")(mteb_predictions)
app.command("beir")(export_tables.beir)
app.command("latex")(export_tables.latex)
app.command("hf")(export_tables.hf)


@app.command("run")
def trec_run(
    run: RunArgument,
    output: options.OutputOption,
    tag: Annotated[str | None, typer.Option(help="The run tag to write; else the file's.")] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Write a TREC run that every tool reads in the same order.

    Scores strictly decrease in single precision, ties are ordered as trec_eval orders them, ranks
    count from 1, comments are gone.

    Example: ranklens export run system.run -o submission.run --tag mysystem
    """
    from ranklens.cli.output import check_output, wrote
    from ranklens.data.runs import read_run, write_run
    from ranklens.eval.export.runs import normalised

    check_output(output)
    read = normalised(read_run(run), tag)
    write_run(read, output)
    wrote(output, as_json, queries=len(read), documents=sum(map(len, read.values())))


@app.command()
def ranx(
    qrels: options.QrelsArgument,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Two TREC runs or more.")],
    output: FileOption,
    measure: options.MeasuresOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Compare runs, as the JSON report that ranx saves.

    P-values are of paired t-tests without correction, as ranx's are.

    Example: ranklens export ranx sample:pydocs bm25.run reranked.run -o report.json
    """
    from ranklens.cli.measuring import load_qrels
    from ranklens.cli.output import check_output, warn, wrote
    from ranklens.data.files import write_json
    from ranklens.eval.export.ranx import ranx_report
    from ranklens.eval.measures import coverage_warnings

    if len(runs) < 2:
        raise UsageError("a comparison takes two runs or more")
    check_output(output)
    judged, level, notes = load_qrels(qrels)
    rel = f"(rel={level})" if level > 1 else ""
    measures = measure or ["nDCG@10", f"AP{rel}", f"RR{rel}@10", f"R{rel}@100"]
    read = export_tables.named_runs(runs)
    write_json(output, ranx_report(judged, read, measures))
    warn(notes)
    for name, run in read.items():
        warn(f"{name}: {text}" for text in coverage_warnings(judged, run))
    wrote(output, as_json, runs=len(runs), queries=len(judged))


@app.command("ranx-run")
def ranx_run(run: RunArgument, output: FileOption, as_json: options.JsonOption = False) -> None:
    """Write a run as JSON for ranx.

    Example: ranklens export ranx-run bm25.run -o bm25.json
    """
    from ranklens.cli.output import check_output, wrote
    from ranklens.data.files import write_json
    from ranklens.data.runs import read_run
    from ranklens.eval.export.ranx import ranx_run as converted

    check_output(output)
    value = converted(read_run(run))
    write_json(output, value)
    wrote(output, as_json, queries=len(value))


@app.command("ranx-qrels")
def ranx_qrels(
    qrels: options.QrelsArgument, output: FileOption, as_json: options.JsonOption = False
) -> None:
    """Write judgements as JSON for ranx.

    Example: ranklens export ranx-qrels sample:pydocs -o qrels.json
    """
    from ranklens.cli.measuring import load_qrels
    from ranklens.cli.output import check_output, warn, wrote
    from ranklens.data.files import write_json
    from ranklens.eval.export.ranx import ranx_qrels as converted

    check_output(output)
    judged, _, notes = load_qrels(qrels)
    write_json(output, converted(judged))
    warn(notes)
    wrote(output, as_json, queries=len(judged))


@app.command("ir-metadata")
def ir_metadata(
    run: RunArgument,
    team: Annotated[str, typer.Option(help="Who made the run.")],
    goal: Annotated[str, typer.Option(help="What the run is for, in a sentence.")],
    repository: Annotated[str, typer.Option(metavar="URL", help="Where the code is.")],
    collection: Annotated[str | None, typer.Option(help="The test collection's name.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write; RUN.ir_metadata.yaml if absent."),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Describe a run in a side file, as ir_metadata has it (needs the extra export).

    The run itself stays as it is: many readers fail on comments. Hardware and library versions
    are those of this machine, so call it where the run was made.

    Example: ranklens export ir-metadata a.run --team A --goal "rerank BM25" --repository URL
    """
    from ranklens.cli.output import check_output, wrote
    from ranklens.data.extras import require
    from ranklens.data.runs import read_run
    from ranklens.eval.export.ir_metadata import ir_metadata as described
    from ranklens.eval.export.yaml_file import write_yaml

    path = output or run.with_name(f"{run.name}.ir_metadata.yaml")
    check_output(path)
    require("export", "yaml")
    value = described(
        read_run(run).tag, team=team, goal=goal, repository=repository, collection=collection
    )
    if output is None and path.exists():
        raise InvalidInputError(f"{path} exists; to replace it, name it by --output")
    write_yaml(path, value)
    wrote(path, as_json)


@app.command()
def diffir(
    explanations: Annotated[
        list[Path], typer.Argument(metavar="JSON...", help="What `ranklens explain --json` gave.")
    ],
    output: FileOption,
    as_json: options.JsonOption = False,
) -> None:
    """Write what carries documents' scores as weights for diffir.

    Example: ranklens export diffir q1.json q2.json -o reranked.run.diffir
    """
    from ranklens.cli.output import check_output, wrote
    from ranklens.eval.export.diffir import read_explanations, write_weights

    check_output(output)
    queries = read_explanations(explanations)
    write_weights(output, queries)
    wrote(output, as_json, queries=len(queries), documents=sum(map(len, queries.values())))
