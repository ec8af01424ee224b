"""``ranklens judge agree``: a judge's labels against gold labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ranklens.cli import options
from ranklens.data.errors import InvalidInputError, MissingResourceError, UsageError

if TYPE_CHECKING:
    from ranklens.data.qrels import Qrels
    from ranklens.data.runs import Run
    from ranklens.eval.agree.report import AgreementReport
    from ranklens.eval.agree.significance import Method


def agree(
    gold: Annotated[
        str | None,
        typer.Argument(metavar="GOLD", help="Gold labels: a qrels file, or a collection."),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Argument(metavar="LABELS...", help="The judges' labels: qrels files."),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Systems: the *.run and *.run.gz files of a folder, or all its files if there "
            "are none; scored under both labels.",
        ),
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="TABLE",
            help="In place of --runs: per-topic scores (TSV: run, topic, measures); first the "
            "gold's, then one for each judge, in the order of LABELS.",
        ),
    ] = None,
    measure: Annotated[
        str, typer.Option("--measure", "-m", help="What ranks the systems.")
    ] = "nDCG@10",
    topics: Annotated[
        str, typer.Option(help="Means over the topics of both (shared), or each its own (own).")
    ] = "shared",
    test: Annotated[
        str | None, typer.Option(help="t (the default), wilcoxon, randomisation, bootstrap.")
    ] = None,
    correction: Annotated[
        str, typer.Option(help="Over all pairs: holm, bonferroni, bh, by, none; or tukey.")
    ] = "holm",
    scale: Annotated[
        str | None,
        typer.Option(metavar="LOW-HIGH", help="The labels that exist; 0 to the gold's highest."),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(metavar="COLLECTION", help="Its passages: agreement by their length too."),
    ] = None,
    judge_model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="The judge's model, to find its own kind; one, or one a judge."
        ),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Report how far a judge's labels agree with gold labels, and the rankings they lead to.

    Labels: kappa, alpha, histograms, signed error. Rankings: tau, tau_AP, RBO, rho, the top
    systems. Significance: which pairs of systems differ, by gold and by judge. Circularity:
    whether the judge favours its own kind. Labels beyond the scale are clipped, and counted.

    Example: ranklens judge agree qrels.txt gpt.txt llama.txt --runs runs/
    """
    from ranklens.cli.judge_report import NO_LABELS, NO_SYSTEMS, print_reports
    from ranklens.cli.output import print_json, warn
    from ranklens.data.qrels import read_qrels
    from ranklens.data.score_table import read_score_table
    from ranklens.eval.agree.as_json import as_json as report_as_json
    from ranklens.eval.agree.labels import Scale
    from ranklens.eval.agree.report import Reporter

    method = _method(test, correction)
    sets, tables = labels or [], scores or []
    _check(gold, sets, runs, tables, topics)
    if gold is None and (scale or texts):
        raise UsageError("--scale and --texts are about labels; give GOLD and LABELS")
    models = _models(judge_model, max(len(sets), len(tables) - 1))
    limits = None if scale is None else Scale.parse(scale)
    judged, notes = _gold(gold)
    # All files before the work, which takes a while.
    judges: list[Qrels | None] = [read_qrels(path) for path in sets]
    judges = judges or [None] * (len(tables) - 1)
    scored = [read_score_table(path, measure) for path in tables]
    of_gold, of_judges = (scored[0] if scored else None), scored[1:]
    systems = {} if runs is None else read_runs(runs)
    words = None if texts is None or judged is None else _words(texts, judged)
    with _scoring(len(systems), len(sets)) as advance:
        reporter = Reporter(
            measure, method, "own" if topics == "own" else "shared",
            judged, limits, systems, of_gold, words, advance,
        )  # fmt: skip
        reports = [
            reporter.report(
                str(path),
                judges[position],
                of_judges[position] if of_judges else None,
                models[position],
            )
            for position, path in enumerate(sets or tables[1:])
        ]
    reports.sort(key=_from_the_top)
    warnings = [*notes, *_warnings(reports)]
    if as_json:
        absent = {}
        if not sets:
            absent["label_agreement"] = NO_LABELS
        if runs is None and not tables:
            absent |= dict.fromkeys(("rankings", "significance", "circularity"), NO_SYSTEMS)
        print_json(
            {
                "status": "ok",
                "measure": measure,
                "topics": topics,
                "test": method.test,
                "correction": method.correction,
                "results": [report_as_json(report) for report in reports],
                "not_measured": absent,
                "warnings": warnings,
            }
        )
        return
    warn(warnings)
    print_reports(reports, measure, method)


def _method(test: str | None, correction: str) -> Method:
    from ranklens.eval.agree.significance import Method
    from ranklens.eval.stats.family import TUKEY

    return Method(test if test is not None or correction == TUKEY else "t", correction)


def _check(
    gold: str | None,
    labels: Sequence[Path],
    runs: Path | None,
    tables: Sequence[Path],
    topics: str,
) -> None:
    """Raise UsageError for options that do not go together."""
    if topics not in ("shared", "own"):
        raise UsageError(f"--topics is {topics!r}; choose shared or own")
    if gold is not None and not labels:
        raise UsageError("give the judge's labels after the gold ones: GOLD LABELS...")
    if runs is not None and tables:
        raise UsageError("--runs and --scores exclude each other")
    if gold is None and not tables:
        raise UsageError("nothing to compare: give GOLD LABELS..., or score tables by --scores")
    if len(tables) == 1:
        raise UsageError("--scores is needed twice or more: the gold's table, then each judge's")
    if tables and labels and len(tables) != len(labels) + 1:
        raise UsageError(
            f"{len(labels)} label sets need {len(labels) + 1} tables (the gold's first), "
            f"got {len(tables)}"
        )


def _models(names: list[str] | None, judges: int) -> Sequence[str | None]:
    if not names:
        return [None] * judges
    if len(names) not in (1, judges):
        raise UsageError(
            f"give --judge-model once, or once for each of {judges} judges; got {len(names)}"
        )
    return names * (judges if len(names) == 1 else 1)


def _gold(spec: str | None) -> tuple[Qrels | None, tuple[str, ...]]:
    if spec is None:
        return None, ()
    from ranklens.cli.measuring import load_qrels

    judged, _, notes = load_qrels(spec)
    return judged, notes


def read_runs(folder: Path) -> dict[str, Run]:
    """Return the runs of a folder by their labels.

    Raises MissingResourceError without the folder, InvalidInputError when it has fewer than two
    runs, or two of one name.
    """
    from ranklens.cli.run_labels import run_labels
    from ranklens.data.runs import read_run

    if not folder.is_dir():
        raise MissingResourceError(f"no folder of runs {str(folder)!r}")
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    named = [path for path in files if path.name.removesuffix(".gz").endswith(".run")]
    runs: dict[str, Run] = {}
    for path in named or files:
        [name] = run_labels([path])
        if name in runs:
            raise InvalidInputError(f"{folder} has two runs of the name {name!r}; rename one")
        runs[name] = read_run(path)
    if len(runs) < 2:
        raise InvalidInputError(f"{folder} has {len(runs)} runs; rankings need two or more")
    return runs


def _words(spec: str, judged: Qrels) -> dict[str, int]:
    """Return the number of words of the judged documents that a collection has."""
    from ranklens.data.load import load_collection

    wanted = {doc_id for grades in judged.values() for doc_id in grades}
    documents = load_collection(spec).documents.get_many(wanted)
    return {doc_id: len(doc.full_text.split()) for doc_id, doc in documents.items()}


@contextmanager
def _scoring(systems: int, judges: int) -> Iterator[Callable[[int], None]]:
    """Show how far the scoring of runs is: the gold's, each judge's, and the simulation's."""
    from ranklens.cli.progress import progress

    if not systems:
        yield lambda count: None
        return
    total = systems + judges * (3 * systems + 2)
    with progress("scoring", total, "runs") as advance:
        yield advance


def _from_the_top(report: AgreementReport) -> tuple[float, float]:
    """Order reports by κ, descending, then by τ; what is undefined comes last."""
    kappa = None if report.labels is None else report.labels.overall.kappa
    tau = None if report.ranked is None else report.ranked.agreement.tau
    return (inf if kappa is None else -kappa, inf if tau is None else -tau)


def _warnings(reports: Sequence[AgreementReport]) -> list[str]:
    """Return all warnings, each one with its label set; one that all have is said once."""
    common = [text for text in reports[0].warnings if all(text in r.warnings for r in reports[1:])]
    own = [
        # What was found in a file of its own has the name already.
        text if text.startswith(report.name) else f"{report.name}: {text}"
        for report in reports
        for text in report.warnings
        if text not in common
    ]
    return [*common, *own]
