"""``ranklens export beir``, ``latex`` and ``hf``: figures for leaderboards and papers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ranklens.cli import options
from ranklens.data.errors import InvalidInputError, UsageError

if TYPE_CHECKING:
    from ranklens.data.runs import Run


def beir(
    sets: Annotated[
        list[str],
        typer.Argument(metavar="(SET QRELS|COLLECTION RUN)...", help="scifact QRELS RUN …"),
    ],
    as_json: options.JsonOption = False,
) -> None:
    """Print BEIR's table: nDCG@10 and R@100 on its 18 sets, and the mean over those given.

    Three words for every set; CQADupStack by its parts (cqadupstack/android …). Documents with
    their query's id are left out, as BEIR does. Missing sets show as missing.

    Example: ranklens export beir scifact irds:beir/scifact/test sci.run nq irds:beir/nq nq.run
    """
    from ranklens.cli.measuring import load_qrels
    from ranklens.cli.output import print_json, print_table, warn
    from ranklens.data.runs import read_run
    from ranklens.eval.export.beir import MEASURES, SETS, beir_table, check_set

    if len(sets) % 3:
        raise UsageError(f"every set takes three words, SET QRELS RUN; {len(sets)} were given")
    names = [check_set(name) for name in sets[::3]]
    if len(set(names)) < len(names):
        raise UsageError("a set is named twice")
    notes, loaded = [], {}
    for name, spec, path in zip(names, sets[1::3], sets[2::3], strict=True):
        judged, _, said = load_qrels(spec)
        notes += [f"{name}: {text}" for text in said]
        loaded[name] = judged, read_run(Path(path))
    table = beir_table(loaded)
    warnings = [*notes, *table.warnings]
    if as_json:
        mean = {"sets": table.there, "measures": dict(table.mean)}
        rows = {name: row and dict(row) for name, row in table.rows.items()}
        print_json({"status": "ok", "results": rows, "mean": mean, "warnings": warnings})
        return
    warn(warnings)
    cells = [
        [name, *("missing" if row is None else f"{row[m]:.4f}" for m in MEASURES)]
        for name, row in table.rows.items()
    ]
    if table.mean:
        mean_of = f"mean of {table.there} of {len(SETS)} sets"
        cells.append([mean_of, *(f"{table.mean[m]:.4f}" for m in MEASURES)])
    print_table("BEIR", ["set", *MEASURES], cells)


def latex(
    qrels: options.QrelsArgument,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="TREC run files.")],
    measure: options.MeasuresOption = None,
    digits: Annotated[int, typer.Option(min=1, max=6, help="Digits behind the point.")] = 4,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; else printed.")
    ] = None,
) -> None:
    """Write a LaTeX table (booktabs) of runs and measures, the best of each in bold.

    Example: ranklens export latex sample:pydocs bm25.run reranked.run -m nDCG@10 -m AP
    """
    from ranklens.cli.latex_table import latex_table
    from ranklens.cli.measuring import load_qrels
    from ranklens.cli.output import check_output, note, print_text, warn
    from ranklens.data.files import atomic_writer
    from ranklens.eval.measures import default_measures, evaluate

    if output is not None:
        check_output(output)
    judged, level, notes = load_qrels(qrels)
    measures = measure or default_measures(level)
    rows, warnings = {}, list(notes)
    for name, run in named_runs(runs).items():
        result = evaluate(judged, run, measures)
        rows[name] = {m: result.measures[m].value for m in measures}
        warnings += (f"{name}: {text}" for text in result.warnings)
    table = latex_table(rows, measures, digits)
    warn(warnings)
    if output is None:
        print_text(table)
        return
    with atomic_writer(output) as stream:
        stream.write(table + "\n")
    note(f"wrote {output}: {len(rows)} runs, {len(judged)} queries")


def hf(
    qrels: options.QrelsArgument,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A TREC run file.")],
    dataset: Annotated[
        str, typer.Option(metavar="ORG/NAME", help="The benchmark's dataset on the hub.")
    ],
    task_id: Annotated[str, typer.Option(help="The task in the benchmark's eval.yaml.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file, .eval_results/NAME.yaml as a rule.")
    ],
    measure: Annotated[str, typer.Option("--measure", "-m", help="The benchmark's.")] = "nDCG@10",
    revision: Annotated[str | None, typer.Option(help="The dataset's revision.")] = None,
    date: Annotated[str | None, typer.Option(help="When it was evaluated, ISO 8601.")] = None,
    source_url: Annotated[str | None, typer.Option(help="Where the result is from.")] = None,
    source_name: Annotated[str | None, typer.Option(help="How that is called.")] = None,
    notes: Annotated[str | None, typer.Option(help="The set-up; the measure if absent.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Write a result for a model's page on the Hugging Face hub (needs the extra export).

    Example: ranklens export hf q.txt a.run --dataset org/set --task-id t -o .eval_results/t.yaml
    """
    from ranklens.cli.measuring import load_qrels
    from ranklens.cli.output import check_output, warn, wrote
    from ranklens.data.extras import require
    from ranklens.data.runs import read_run
    from ranklens.eval.export.huggingface import eval_result
    from ranklens.eval.export.yaml_file import write_yaml
    from ranklens.eval.measures import evaluate

    check_output(output)
    if output.exists() and not overwrite:
        raise InvalidInputError(f"{output} exists; --overwrite replaces it")
    require("export", "yaml")
    judged, _, said = load_qrels(qrels)
    result = evaluate(judged, read_run(run), [measure])
    entry = eval_result(
        dataset,
        task_id,
        result.measures[measure].value,
        revision=revision,
        date=date,
        source_url=source_url,
        source_name=source_name,
        notes=notes or measure,
    )
    write_yaml(output, [entry])
    warn([*said, *result.warnings])
    wrote(output, as_json, queries=result.queries)


def named_runs(paths: list[Path]) -> dict[str, Run]:
    """Return runs by what tells their files apart."""
    from ranklens.cli.run_labels import run_labels
    from ranklens.data.runs import read_run

    return {name: read_run(path) for name, path in zip(run_labels(paths), paths, strict=True)}
