"""``ranklens export mteb`` and ``mteb-predictions``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ranklens.cli import options

TaskOption = Annotated[str, typer.Option(help="The task's name in MTEB, as SciFact.")]
ModelOption = Annotated[
    str, typer.Option(metavar="ORG/NAME@REVISION", help="The model that made the run.")
]
SplitOption = Annotated[str, typer.Option(help="The task's split.")]
SubsetOption = Annotated[str, typer.Option(help="The task's subset, as MTEB names it.")]
OutOption = Annotated[Path, typer.Option("--out", help="The folder to write to.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is there of this split and subset.")
]


def mteb(
    qrels: options.QrelsArgument,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A TREC run file.")],
    task: TaskOption,
    model: ModelOption,
    dataset_revision: Annotated[str, typer.Option(help="Of the task's data, as MTEB has it.")],
    out: OutOption = Path("results"),
    split: SplitOption = "test",
    subset: SubsetOption = "default",
    language: Annotated[
        list[str] | None, typer.Option(help="eng-Latn (the default), …; once for each.")
    ] = None,
    main_score: Annotated[str, typer.Option(help="The task's main measure.")] = "ndcg_at_10",
    model_type: Annotated[
        str, typer.Option(help="cross-encoder, dense, sparse, late-interaction or hybrid.")
    ] = "cross-encoder",
    first_stage: Annotated[
        str | None,
        typer.Option(metavar="ORG/NAME@REVISION", help="Whose documents the model reranked."),
    ] = None,
    ignore_identical_ids: Annotated[
        bool,
        typer.Option(
            "--ignore-identical-ids",
            help="Leave out documents with their query's id, where the task does (ArguAna, …).",
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Write results as MTEB's leaderboard has them, with model_meta.json beside them.

    OUT/<org>__<model>/<revision>/<task>.json: nDCG, AP, recall, precision, reciprocal rank and
    hit rate at 1, 3, 5, 10, 20, 100 and 1000. Judged queries that the run lacks count as 0.

    Example: ranklens export mteb irds:beir/scifact/test a.run --task SciFact --model me/a@1 …
    """
    from ranklens.cli.measuring import load_qrels
    from ranklens.cli.output import check_folder, warn, wrote
    from ranklens.data.runs import read_run
    from ranklens.eval.export.mteb import (
        MtebModel,
        MtebTask,
        task_scores,
        write_results,
    )
    from ranklens.eval.measures import coverage_warnings

    named = MtebModel.parse(model)
    of = MtebModel(named.name, named.revision, model_type)
    part = MtebTask(task, split, subset)
    before = None if first_stage is None else MtebModel.parse(first_stage)
    check_folder(out)
    judged, _, notes = load_qrels(qrels)
    read = read_run(run)
    path = write_results(
        out,
        of,
        part,
        task_scores(judged, read, ignore_identical_ids=ignore_identical_ids),
        dataset_revision=dataset_revision,
        languages=language or ["eng-Latn"],
        main_score=main_score,
        first_stage=before,
        overwrite=overwrite,
    )
    warn([*notes, *coverage_warnings(judged, read)])
    wrote(path, as_json, queries=len(judged))


def mteb_predictions(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A TREC run file.")],
    task: TaskOption,
    model: ModelOption,
    out: OutOption = Path("predictions"),
    split: SplitOption = "test",
    subset: SubsetOption = "default",
    overwrite: OverwriteOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Write a run as MTEB's predictions: a first stage for its rerankers.

    In Python, `task.convert_to_reranking("predictions", top_k=100)` then makes them its
    candidates.

    Example: ranklens export mteb-predictions bm25.run --task SciFact --model me/bm25@1
    """
    from ranklens.cli.output import check_folder, wrote
    from ranklens.data.runs import read_run
    from ranklens.eval.export.mteb import MtebModel, MtebTask, write_predictions

    of, part = MtebModel.parse(model), MtebTask(task, split, subset)
    check_folder(out)
    read = read_run(run)
    path = write_predictions(out, of, part, read, overwrite=overwrite)
    wrote(path, as_json, queries=len(read), documents=sum(map(len, read.values())))
