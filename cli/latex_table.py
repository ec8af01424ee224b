"""A table of runs and measures for a paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ranklens.cli.markup import latex
from ranklens.eval.measure_names import parse_measure


def latex_table(
    rows: Mapping[str, Mapping[str, float]], measures: Sequence[str], digits: int = 4
) -> str:
    """Return a ``tabular`` for LaTeX's booktabs: a row per run, the best of a column bold.

    ``rows`` maps a run's name to its values. All that share the best value, as it is printed,
    are bold.
    """
    printed = {
        name: {measure: f"{values[measure]:.{digits}f}" for measure in measures}
        for name, values in rows.items()
    }
    best = {
        measure: (min if parse_measure(measure).lower_is_better else max)(
            (row[measure] for row in printed.values()), key=float
        )
        for measure in measures
    }
    lines = []
    for name, row in printed.items():
        cells = [
            f"\\textbf{{{row[measure]}}}" if row[measure] == best[measure] else row[measure]
            for measure in measures
        ]
        lines.append([latex(name), *cells])
    return booktabs("l" + "r" * len(measures), ["Run", *map(latex, measures)], lines)


def booktabs(
    alignment: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    foot: str | None = None,
) -> str:
    """Return a ``tabular`` of cells that are LaTeX already; ``foot`` is a paragraph below."""
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{alignment}}}",
        "\\toprule",
        " & ".join(head) + r" \\",
        "\\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        "\\bottomrule",
    ]
    if foot is not None:
        lines += [
            f"\\multicolumn{{{len(head)}}}{{p{{0.9\\linewidth}}}}{{\\footnotesize",
            f"{foot}}} \\\\",
        ]
    return "\n".join([*lines, "\\end{tabular}"])
