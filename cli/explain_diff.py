"""``ranklens explain-diff``: why another tool or paper has another figure for a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.data.errors import InvalidInputError, UsageError

if TYPE_CHECKING:
    from ranklens.eval.explain_diff.rules import Rule
    from ranklens.eval.explain_diff.search import Attempt, Diagnosis, Target, Verdict
    from ranklens.eval.explain_diff.setting import Part

_NEARER_SHOWN = 5
# Two runs that should agree: their values are at hand in full.
_EXACT = 1e-6


def explain_diff(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="(QRELS|COLLECTION RUN)...", help="Judgements and a run; of each part, if many."
        ),
    ],
    measure: Annotated[str, typer.Option("--measure", "-m", help="nDCG@10, 'AP(rel=2)', …")],
    value: Annotated[
        list[str] | None,
        typer.Option(help="The other figure, as it was written: 0.4974 or 49.74. May be repeated."),
    ] = None,
    other_run: Annotated[
        Path | None, typer.Option(help="A run that should have the same figure, and has not.")
    ] = None,
    other_qrels: Annotated[
        Path | None, typer.Option(help="Another version or split of the judgements.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="How far off still agrees; if absent, by VALUE's digits.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Find the rule in which another tool differs, by computing a run's figure under each.

    Rules of measure, order, queries, run, judgements and ids are changed one by one, then two
    at once: what gives the other figure to its last digit explains it, what comes nearer does
    not. A figure says no more than that: of rules that give the same number, any may be it.

    Example: ranklens explain-diff qrels.txt bm25.run -m AP --value 0.3013
    """
    from ranklens.cli.output import print_json, warn
    from ranklens.cli.progress import progress
    from ranklens.eval.explain_diff.rules import not_checkable
    from ranklens.eval.explain_diff.search import diagnose

    if len(files) % 2:
        raise UsageError(f"give QRELS RUN, or that for every part; {len(files)} were given")
    if (value is None) == (other_run is None):
        raise UsageError("give --value or --other-run: what the figure is compared with")
    if len(files) > 2 and (other_run is not None or other_qrels is not None):
        raise UsageError("--other-run and --other-qrels belong to one set, not to parts")
    parts, notes = _parts(files, other_qrels)
    targets = _targets(parts, measure, value, other_run, tolerance)
    diagnosis = diagnose(
        parts, measure, targets, lambda title, total: progress(title, total, "figures")
    )
    absent = not_checkable(parts)
    warnings = [*notes, *_ambiguities(diagnosis)]
    if as_json:
        print_json({**_as_json(measure, diagnosis), "not_checkable": absent, "warnings": warnings})
        return
    warn(warnings)
    _print(measure, diagnosis, absent)


def _parts(files: list[str], other_qrels: Path | None) -> tuple[list[Part], list[str]]:
    from ranklens.cli.measuring import load_qrels
    from ranklens.data.qrels import read_qrels
    from ranklens.eval.explain_diff.setting import Part, read_rows

    others = None if other_qrels is None else read_qrels(other_qrels)
    parts: list[Part] = []
    notes: list[str] = []
    for spec, run in zip(files[::2], files[1::2], strict=True):
        qrels, _, said = load_qrels(spec)
        rows = read_rows(Path(run))
        wanted = {row.doc_id for found in rows.values() for row in found}
        wanted |= {doc_id for grades in qrels.values() for doc_id in grades}
        notes += said
        parts.append(Part(qrels, rows, others, _same_text(spec, wanted)))
    return parts, notes


def _same_text(spec: str, wanted: set[str]) -> dict[str, str] | None:
    """Return which documents have the same text, where the judgements are a collection's."""
    from ranklens.data.load import load_collection
    from ranklens.eval.explain_diff.setting import same_texts

    if Path(spec).expanduser().is_file() and not spec.removesuffix(".gz").endswith(".jsonl"):
        return None
    documents = load_collection(spec).documents.get_many(sorted(wanted))
    return same_texts((doc_id, document.full_text) for doc_id, document in documents.items())


def _targets(
    parts: list[Part],
    measure: str,
    values: list[str] | None,
    other_run: Path | None,
    tolerance: float | None,
) -> list[Target]:
    from ranklens.eval.explain_diff.search import Target
    from ranklens.eval.explain_diff.setting import Figures, Part, Setting, read_rows

    if values is not None:
        return [Target.parse(text, tolerance) for text in values]
    assert other_run is not None
    other = Part(parts[0].qrels, read_rows(other_run))
    try:
        found = Figures([other], measure).outcome(Setting())
    except InvalidInputError as error:
        raise InvalidInputError(f"{other_run}: {error}") from None
    exact = repr(found.value)
    return [Target(exact, found.value, _EXACT if tolerance is None else tolerance)]


def _ambiguities(diagnosis: Diagnosis) -> list[str]:
    return [
        f"{len(verdict.explains)} explanations give {verdict.target.text}: this figure alone "
        "does not say which it is"
        for verdict in diagnosis.verdicts
        if len(verdict.explains) > 1
    ]


def _as_json(measure: str, diagnosis: Diagnosis) -> dict[str, Any]:
    def rule(one: Rule) -> dict[str, str]:
        return {"kind": one.kind, "rule": one.name}

    def attempt(one: Attempt) -> dict[str, Any]:
        return {"rules": [rule(r) for r in one.rules], "value": one.value}

    return {
        "status": "ok",
        "measure": measure,
        "value": diagnosis.value,
        "problem": diagnosis.problem or None,
        "targets": [
            {
                "given": verdict.target.text,
                "tolerance": verdict.target.tolerance,
                "agrees": _agrees(diagnosis, verdict),
                "explains": [attempt(one) for one in verdict.explains],
                "nearer": [attempt(one) for one in verdict.nearer[:_NEARER_SHOWN]],
            }
            for verdict in diagnosis.verdicts
        ],
        "effects": [attempt(one) for one in diagnosis.effects],
        "without_effect": [rule(one) for one in diagnosis.without_effect],
        "impossible": [rule(one) for one in diagnosis.impossible],
    }


def _agrees(diagnosis: Diagnosis, verdict: Verdict) -> bool:
    return diagnosis.value is not None and verdict.target.matches(diagnosis.value)


def _print(measure: str, diagnosis: Diagnosis, absent: list[str]) -> None:
    from ranklens.cli.escape import printable
    from ranklens.cli.output import print_table, print_text

    if diagnosis.value is None:
        print_text(f"{measure} by default: none, for {printable(diagnosis.problem)}")
    else:
        print_text(f"{measure} by default (trec_eval 9 with -c): {diagnosis.value:.6f}")
    for verdict in diagnosis.verdicts:
        given = verdict.target.text
        if _agrees(diagnosis, verdict):
            print_text(f"{given} agrees: no rule needs to change")
            continue
        shown = [("explains", one) for one in verdict.explains]
        if not shown:
            shown = [("nearer", one) for one in verdict.nearer[:_NEARER_SHOWN]]
        title = f"{given} is explained" if verdict.explains else f"nothing explains {given}"
        if not shown:
            print_text(f"{title}, and no rule comes nearer")
            continue
        rows = [
            [
                how,
                " + ".join(rule.name for rule in one.rules),
                f"{one.value:.6f}",
                f"{verdict.target.gap(one.value):+.6f}",
            ]
            for how, one in shown
        ]
        print_table(title, ["", "rule", measure, "off by"], rows, text_columns=2)
    for heading, texts in (
        ("without effect on these files:", [rule.name for rule in diagnosis.without_effect]),
        ("leave nothing to compute:", [rule.name for rule in diagnosis.impossible]),
        ("cannot be checked here:", absent),
    ):
        if texts:
            print_text("\n  ".join([heading, *texts]))
