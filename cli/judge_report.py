"""A judge-agreement report at a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ranklens.cli.escape import printable
from ranklens.cli.output import print_table, print_text

if TYPE_CHECKING:
    from ranklens.eval.agree.circularity import SelfPreference
    from ranklens.eval.agree.labels import Agreement, LabelAgreement
    from ranklens.eval.agree.report import AgreementReport, Circularity, Ranked
    from ranklens.eval.agree.significance import Method

NO_LABELS = "not measured: give GOLD and LABELS"
NO_SYSTEMS = "not measured: give --runs or --scores"


def print_reports(reports: Sequence[AgreementReport], measure: str, method: Method) -> None:
    """Print label sets under each other, family by family; of a single one also the details."""
    names = _shown([report.name for report in reports])
    labels = [(n, r.labels) for n, r in zip(names, reports, strict=True) if r.labels is not None]
    ranked = [(n, r.ranked) for n, r in zip(names, reports, strict=True) if r.ranked is not None]
    circular = [
        (n, r.circularity) for n, r in zip(names, reports, strict=True) if r.circularity is not None
    ]
    if labels:
        _print_labels(labels)
    else:
        print_text(f"labels: {NO_LABELS}")
    if not ranked:
        print_text(f"rankings, significance, circularity: {NO_SYSTEMS}")
        return
    _print_rankings(ranked, measure)
    _print_significance(ranked, method)
    _print_circularity(circular)


def _shown(paths: Sequence[str]) -> list[str]:
    """Return file names without folders where they tell the label sets apart."""
    names = [Path(path).name for path in paths]
    return [printable(name) for name in (names if len(set(names)) == len(names) else paths)]


def _figure(value: float | None, form: str = ".4f") -> str:
    return "undefined" if value is None else format(value, form)


def _print_labels(rows: Sequence[tuple[str, LabelAgreement]]) -> None:
    scale = rows[0][1].scale
    print_table(
        f"labels, scale {scale}: Cohen's κ, Krippendorff's ordinal α, mean of judge − gold",
        ["labels", "pairs", "of gold", "κ", *(f"κ ≥{grade}" for grade in scale.thresholds),
         "α", "exact", "error", "clipped"],
        [
            [name, str(row.overall.pairs), str(row.gold_pairs), *_agreement(row.overall),
             str(sum(row.judge_clipped.values()))]
            for name, row in rows
        ],
    )  # fmt: skip
    # With different pairs missing, each label set has other gold labels beside it.
    gold = rows[0][1].gold_histogram
    same = all(row.gold_histogram == gold for _, row in rows)
    print_table(
        "labels: how often each is given, on the pairs of both",
        ["labels", *map(str, scale.labels)],
        [
            *([["gold", *map(str, gold.values())]] if same else []),
            *([name, *map(str, row.judge_histogram.values())] for name, row in rows),
        ],
    )
    if len(rows) == 1:
        _print_details(rows[0][1])


def _agreement(figures: Agreement) -> list[str]:
    return [
        _figure(figures.kappa),
        *map(_figure, figures.binary.values()),
        _figure(figures.alpha),
        f"{figures.exact:.4f}",
        f"{figures.signed_error:+.4f}",
    ]


def _print_details(labels: LabelAgreement) -> None:
    scale = labels.scale
    print_table(
        "labels: pairs by gold (down) and judge (across)",
        ["gold", *(f"judge {label}" for label in scale.labels)],
        [
            [str(label), *map(str, row)]
            for label, row in zip(scale.labels, labels.confusion.tolist(), strict=True)
        ],
    )
    if labels.by_length:
        print_table(
            "labels by the length of passages",
            ["words", "pairs", "κ", *(f"κ ≥{grade}" for grade in scale.thresholds), "α", "exact",
             "error"],
            [
                [f"{row.shortest}-{row.longest}", str(row.agreement.pairs),
                 *_agreement(row.agreement)]
                for row in labels.by_length
            ],
        )  # fmt: skip


def _print_rankings(rows: Sequence[tuple[str, Ranked]], measure: str) -> None:
    agreements = [row.agreement for _, row in rows]
    # With other topics left out, tables may have other systems too.
    tops = sorted({top.k for found in agreements for top in found.top})
    columns = [column for k in tops for column in (f"τ top {k}", f"drop {k}")]
    body = []
    for name, row in rows:
        found = row.agreement
        by_k = {top.k: top for top in found.top}
        top = [
            text
            for k in tops
            for text in (
                (_figure(by_k[k].tau), f"{by_k[k].drop}") if k in by_k else ("", "")
            )
        ]  # fmt: skip
        body.append(
            [name, str(found.systems), "/".join(map(str, row.topics)), _figure(found.tau),
             _figure(found.tau_ap), _figure(found.rbo), _figure(found.rho), *top,
             "same" if found.same_winner else "other", f"{found.bias:+.4f}", f"{found.rmse:.4f}"]
        )  # fmt: skip
    print_table(
        f"rankings of systems by mean {printable(measure)}, judge against gold",
        ["labels", "systems", "topics", "τ_b", "τ_AP", "RBO", "ρ", *columns, "winner", "bias",
         "RMSE"],
        body,
    )  # fmt: skip
    if len(rows) == 1:
        found = agreements[0]
        print_text(
            f"best system: {printable(found.gold_winner)} by gold, "
            f"{printable(found.judge_winner)} by judge"
        )
    print_table(
        "wins of the judge's best system, t test one-sided, Bonferroni (FPR of FP + TN, FNR of "
        "FN + TP)",
        ["labels", "best system", "TP", "FP", "FN", "TN", "FPR", "FNR"],
        [
            [name, printable(top.system), str(top.tp), str(top.fp), str(top.fn), str(top.tn),
             _figure(top.fpr), _figure(top.fnr)]
            for name, top in ((name, row.top_system) for name, row in rows)
        ],
        text_columns=2,
    )  # fmt: skip


def _print_significance(rows: Sequence[tuple[str, Ranked]], method: Method) -> None:
    print_table(
        f"pairs of systems, {method}, level 0.05: active, mixed (gold or judge only) and passive "
        "agreement, disagreement",
        ["labels", "pairs", "AA", "MA_g", "MA_j", "PA", "AD", "MD_g", "MD_j", "PD"],
        [
            [name, *(str(count) for count in
                     (c.pairs, c.aa, c.ma_g, c.ma_j, c.pa, c.ad, c.md_g, c.md_j, c.pd))]
            for name, c in ((name, row.cells) for name, row in rows)
        ],
    )  # fmt: skip
    rates = [(name, row.cells.rates) for name, row in rows]
    if len(rates) == 1:
        print_table(
            "rates of these pairs",
            ["rate", "denominator", "value", "count"],
            [
                [title, rate.denominator, _figure(rate.value), str(rate.count)]
                for title, rate in rates[0][1].items()
            ],
            text_columns=2,
        )
    else:
        print_table(
            "rates of these pairs",
            ["labels", *rates[0][1]],
            [[name, *(_figure(rate.value) for rate in found.values())] for name, found in rates],
        )
        for title, rate in rates[0][1].items():
            print_text(f"{title}: of {rate.denominator}")
    print_text("a pair in AD is lost and false: TP + FN + FP + TN is the number of pairs + AD")


def _print_circularity(rows: Sequence[tuple[str, Circularity]]) -> None:
    simulated = [(name, row.reranker) for name, row in rows if row.reranker is not None]
    if simulated:
        print_table(
            f"if every system put its first {simulated[0][1].depth} documents in the judge's order",
            ["labels", "τ_b before", "τ_b after", "gold change", "judge run by gold", "rank",
             "by judge (ceiling)", "rank"],
            [
                [name, _figure(row.tau_before), _figure(row.tau_after), f"{row.gold_change:+.4f}",
                 f"{row.run_gold:.4f}", str(row.run_gold_rank), f"{row.run_judge:.4f}",
                 str(row.run_judge_rank)]
                for name, row in simulated
            ],
        )  # fmt: skip
    else:
        print_text("judge as reranker: not measured: give GOLD, LABELS and --runs, shared topics")
    named = [(name, row) for name, row in rows if row.judge_model is not None]
    if not named:
        print_text("self-preference: not measured: give --judge-model")
        return
    print_table(
        "self-preference: judge − gold scores of the judge's own systems, and of the others",
        ["labels", "systems", "count", "own", "others", "SelfPref", "RankGain"],
        [
            row
            for name, found in named
            for row in (
                _preference(name, "own run", found.own),
                _preference(name, f"family {', '.join(found.families) or 'unknown'}", found.family),
            )
        ],
        text_columns=2,
    )


def _preference(name: str, of: str, found: SelfPreference | None) -> list[str]:
    if found is None:
        return [name, of, "0", *["not among the systems"], "", "", ""]
    return [
        name,
        of,
        str(len(found.systems)),
        f"{found.inflation:+.4f}",
        _figure(found.others, "+.4f"),
        _figure(found.preference, "+.4f"),
        f"{found.rank_gain:+.1f}",
    ]
