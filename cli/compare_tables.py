"""A comparison as tables: for a terminal, for Markdown, for LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_lowercase
from typing import TYPE_CHECKING

from ranklens.cli.escape import printable
from ranklens.cli.latex_table import booktabs
from ranklens.cli.markup import latex, markdown
from ranklens.cli.output import note, print_table, print_text

if TYPE_CHECKING:
    from ranklens.eval.comparison import Comparison, Pair
    from ranklens.eval.movers import QueryChange

_TESTS = {
    "t": "paired t test",
    "wilcoxon": "Wilcoxon's signed-rank test",
    "randomisation": "Fisher's randomisation test",
    "bootstrap": "paired bootstrap test",
}
_CORRECTIONS = {
    "none": "not corrected",
    "bonferroni": "Bonferroni's correction",
    "holm": "Holm's correction",
    "bh": "Benjamini and Hochberg's correction",
    "by": "Benjamini and Yekutieli's correction",
    "tukey": "randomised Tukey HSD",
}
# All pairs of more runs are a table that nobody reads.
_PAIRED_RUNS = 10


def print_comparison(comparison: Comparison) -> None:
    """Print the comparison for a terminal, a table per measure and one of the rankings."""
    if comparison.baseline is None:
        _print_all_pairs(comparison)
    else:
        _print_against_baseline(comparison, comparison.baseline)
    print_text(_method(comparison))


def _print_against_baseline(comparison: Comparison, baseline: str) -> None:
    measures = dict.fromkeys(pair.measure for pair in comparison.pairs)
    for measure in measures:
        mean = comparison.runs[baseline].measures[measure].value
        rows = [[printable(baseline), f"{mean:.4f}", "baseline", *[""] * 5]]
        for pair in comparison.pairs:
            if pair.measure == measure:
                value = comparison.runs[pair.run].measures[measure].value
                rows.append([printable(pair.run), f"{value:.4f}", *_figures(pair)])
        title = f"{measure}, {comparison.queries} judged queries, against {printable(baseline)}"
        print_table(title, ["run", "mean", *_columns(comparison)], rows)
    rows = []
    for name, run in comparison.runs.items():
        found = comparison.overlap(name, baseline)
        alike = ["", ""] if name == baseline else [f"{found.jaccard:.3f}", f"{found.rbo:.3f}"]
        rows.append([printable(name), f"{run.unjudged:.1%}", str(len(run.missing)), *alike])
    print_table(
        "rankings", ["run", "unjudged@10", "queries missing", "Jaccard@10", "RBO(0.9)"], rows
    )


def _print_all_pairs(comparison: Comparison) -> None:
    marks = _marks(comparison)
    for measure in dict.fromkeys(pair.measure for pair in comparison.pairs):
        rows = []
        for name, run in comparison.runs.items():
            low, high = run.measures[measure].ci95
            better = " ".join(marks[other] for other in comparison.better_than(name, measure))
            rows.append(
                [marks[name], printable(name), better, f"{run.measures[measure].value:.4f}",
                 f"[{low:.3f}, {high:.3f}]", f"{run.unjudged:.1%}", str(len(run.missing))]
            )  # fmt: skip
        print_table(
            f"{measure}, {comparison.queries} judged queries",
            ["", "run", "better than", "mean", "95% CI", "unjudged@10", "missing"],
            rows,
            text_columns=3,
        )
        if len(comparison.runs) <= _PAIRED_RUNS:
            _print_pairs(comparison, measure, marks)
    if len(comparison.runs) > _PAIRED_RUNS:
        note(f"{len(comparison.compared)} pairs: --json has them one by one")


def _print_pairs(comparison: Comparison, measure: str, marks: dict[str, str]) -> None:
    rows = []
    for pair in comparison.pairs:
        if pair.measure == measure:
            found = comparison.overlap(pair.run, pair.against)
            rows.append(
                [f"{marks[pair.run]} - {marks[pair.against]}", *_figures(pair),
                 f"{found.jaccard:.3f}", f"{found.rbo:.3f}"]
            )  # fmt: skip
    columns = ["pair", *_columns(comparison), "Jaccard@10", "RBO(0.9)"]
    print_table(f"{measure}, pair by pair", columns, rows)


def _columns(comparison: Comparison) -> list[str]:
    return ["Δ", "95% CI of Δ", "p", f"p {comparison.correction}", "W/T/L", "d_z"]


def _figures(pair: Pair) -> list[str]:
    found = pair.effect
    interval = f"[{found.ci95[0]:+.3f}, {found.ci95[1]:+.3f}]" if found.ci95 else "-"
    return [
        f"{found.difference:+.4f}",
        interval,
        _p(pair.p),
        _p(pair.p_corrected) + ("*" if pair.significant else ""),
        f"{found.wins}/{found.ties}/{found.losses}",
        "-" if found.d_z is None else f"{found.d_z:+.2f}",
    ]


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def print_changes(
    comparison: Comparison, run: str, against: str, changes: Sequence[QueryChange]
) -> None:
    """Print queries that a run wins or loses, each with the documents that moved."""
    from ranklens.eval.movers import cutoff

    measure = comparison.pairs[0].measure
    k = cutoff(measure)
    rows = []
    for change in changes:
        rows.append(
            [printable(change.query_id), "", "", f"{change.against:.3f} → {change.value:.3f}",
             f"{change.difference:+.4f}"]
        )  # fmt: skip
        alike = (
            f"unjudged {change.unjudged_against} → {change.unjudged}, "
            f"Jaccard@{k} {change.jaccard:.2f}, RBO {change.rbo:.2f}"
        )
        rows.append(["", alike, "", "", ""])
        rows += [
            ["", printable(moved.doc_id), "-" if moved.grade is None else str(moved.grade),
             f"{moved.rank_against or '-'} → {moved.rank or '-'}", f"{moved.contribution:+.4f}"]
            for moved in change.movers
        ]  # fmt: skip
    print_table(
        f"{measure} by query, {printable(run)} against {printable(against)}",
        ["query", "document", "grade", f"{measure} or rank", "Δ"],
        rows,
        text_columns=2,
    )
    print_text(f"Δ of a document: its part in the change of nDCG@{k}; - is unjudged, or not there.")


def print_markdown(comparison: Comparison) -> None:
    """Print a Markdown table: letters raised at a mean name the runs it is better than."""
    marks = _marks(comparison)
    measures = list(dict.fromkeys(pair.measure for pair in comparison.pairs))

    def cell(mean: str, better: str, best: bool) -> str:
        return (f"**{mean}**" if best else mean) + (f"<sup>{better}</sup>" if better else "")

    lines = [
        ["#", "run", *map(markdown, measures)],
        ["---", "---", *["---:"] * len(measures)],
        *_matrix(comparison, marks, measures, markdown, cell),
    ]
    for line in lines:
        print_text(f"| {' | '.join(line)} |")
    print_text(f"\n{markdown(_legend(comparison))}")


def print_latex(comparison: Comparison) -> None:
    """Print a table for LaTeX's booktabs, with letters raised as in Markdown."""
    marks = _marks(comparison)
    measures = list(dict.fromkeys(pair.measure for pair in comparison.pairs))

    def cell(mean: str, better: str, best: bool) -> str:
        shown = f"\\textbf{{{mean}}}" if best else mean
        return shown + (f"$^{{{better}}}$" if better else "")

    head = ["\\#", "Run", *map(latex, measures)]
    rows = _matrix(comparison, marks, measures, latex, cell)
    print_text(booktabs("l" * len(head), head, rows, latex(_legend(comparison))))


def _matrix(
    comparison: Comparison,
    marks: dict[str, str],
    measures: Sequence[str],
    escape: Callable[[str], str],
    cell: Callable[[str, str, bool], str],
) -> list[list[str]]:
    """Return a row for each run: its mark, its name, a cell for each measure."""
    means = {
        measure: {
            name: f"{run.measures[measure].value:.4f}" for name, run in comparison.runs.items()
        }
        for measure in measures
    }
    joint = "" if len(marks) <= len(ascii_lowercase) else ","
    return [
        [
            marks[name],
            escape(name),
            *(
                cell(
                    means[measure][name],
                    joint.join(marks[other] for other in comparison.better_than(name, measure)),
                    means[measure][name] == max(means[measure].values(), key=float),
                )
                for measure in measures
            ),
        ]
        for name in comparison.runs
    ]


def _marks(comparison: Comparison) -> dict[str, str]:
    """Return a letter for each run; where there are too many runs, a number."""
    names = list(comparison.runs)
    if len(names) <= len(ascii_lowercase):
        return dict(zip(names, ascii_lowercase, strict=False))
    return {name: str(number) for number, name in enumerate(names, start=1)}


def _legend(comparison: Comparison) -> str:
    return (
        f"Mean over {comparison.queries} queries, the best bold. Raised: significantly better "
        f"than these runs. {_method(comparison)}"
    )


def _method(comparison: Comparison) -> str:
    """Return how significance was found, in a sentence."""
    from ranklens.eval.stats.family import LEVEL

    pairs = "pair" if len(comparison.compared) == 1 else "pairs"
    of = "" if comparison.baseline is None else " with the baseline"
    test = _TESTS[comparison.test]
    correction = _CORRECTIONS[comparison.correction]
    return (
        f"Significant: p < {LEVEL}, {test}, two-sided; {correction}, "
        f"{len(comparison.compared)} {pairs}{of} per measure."
    )
