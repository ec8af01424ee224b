"""The tables of the page: measures, agreement of labels, environment, warnings, commands.

They are escaped HTML and can be read without scripts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ranklens.cli.html_report.page.text import (
    escaped,
    interval,
    isolated,
    number,
    p_value,
    signed,
)

Record = Mapping[str, Any]


def measures_table(content: Record) -> str:
    """Return runs by measures, with intervals; below them ceilings and changes."""
    measures: Sequence[str] = content["measures"]
    if not measures:
        return ""
    rows = [_run_row(run, measures, _best(content["runs"])) for run in content["runs"]]
    rows += [_ceiling_row(names, values, measures) for values, names in _ceilings(content["runs"])]
    rows += [
        _change_row(run, against, measures, content["comparisons"])
        for run, against in _pairs(content["comparisons"])
    ]
    head = "".join(f'<th scope="col">{escaped(measure)}</th>' for measure in measures)
    return _table(
        f'<tr><th scope="col">Run</th>{head}</tr>',
        rows,
        "Means over queries, with 95% intervals below them. The best mean of a measure is bold.",
        "measures",
    )


def _best(runs: Iterable[Record]) -> dict[str, str]:
    """Return each measure's largest value as it is printed, where two runs or more have one."""
    values: dict[str, list[float]] = {}
    for run in runs:
        for measure, value in run["values"].items():
            if value["value"] is not None:
                values.setdefault(measure, []).append(value["value"])
    return {measure: number(max(held)) for measure, held in values.items() if len(held) > 1}


def _run_row(run: Record, measures: Iterable[str], best: Mapping[str, str]) -> str:
    cells = []
    for measure in measures:
        value = run["values"].get(measure) or {"value": None, "ci95": None}
        mean = number(value["value"])
        mean = f"<b>{mean}</b>" if mean == best.get(measure) else mean
        cells.append(_cell(mean, interval(value["ci95"])))
    note = run["role"] if run["role"] != "run" else ""
    if run["depth"] is not None:
        note += f"{', ' if note else ''}the first {run['depth']:,}"
    return _row(isolated(run["name"]), note, cells)


def _ceilings(runs: Sequence[Record]) -> list[tuple[Record, list[str]]]:
    """Return each ceiling with the runs whose candidates have it.

    A first stage's ceiling is that of the run which reranked it.
    """
    having = [run for run in runs if run["ceiling"]]
    having = [run for run in having if run["role"] == "reranked"] or having
    found: list[tuple[Record, list[str]]] = []
    for run in having:
        for ceiling, names in found:
            if ceiling == run["ceiling"]:
                names.append(run["name"])
                break
        else:
            found.append((run["ceiling"], [run["name"]]))
    return found


def _ceiling_row(names: Sequence[str], ceiling: Record, measures: Iterable[str]) -> str:
    cells = [_cell(number(ceiling.get(measure)), None) for measure in measures]
    note = f"best order of the candidates of {' and of '.join(names)}"
    return _row("Ceiling", note, cells, "aside")


def _pairs(comparisons: Iterable[Record]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((pair["run"], pair["against"]) for pair in comparisons))


def _change_row(
    run: str, against: str, measures: Iterable[str], comparisons: Iterable[Record]
) -> str:
    found = {
        pair["measure"]: pair
        for pair in comparisons
        if (pair["run"], pair["against"]) == (run, against)
    }
    cells = []
    for measure in measures:
        pair = found.get(measure)
        if pair is None:
            cells.append(_cell("–", None))
            continue
        counts = f"{pair['wins']} won, {pair['ties']} tied, {pair['losses']} lost"
        cells.append(
            _cell(
                signed(pair["difference"]), interval(pair["ci95"], sign=True),
                p_value(pair["p"]), counts,
            )
        )  # fmt: skip
    return _row("Change", f"{run} against {against}", cells, "change")


def _cell(value: str, *notes: str | None) -> str:
    lines = "".join(f"<small>{escaped(note)}</small>" for note in notes if note)
    return f"<td>{value}{lines}</td>"


def _row(name: str, note: str, cells: Iterable[str], kind: str = "") -> str:
    below = f"<small>{isolated(note)}</small>" if note else ""
    opening = f'<tr class="{kind}">' if kind else "<tr>"
    return f'{opening}<th scope="row">{name}{below}</th>{"".join(cells)}</tr>'


def _table(head: str, rows: Iterable[str], caption: str, kind: str) -> str:
    # A region that scrolls has to be reachable by keyboard, and so has to have a name.
    label = escaped(caption)
    return (
        f'<div><p class="caption">{label}</p>'
        f'<div class="scrolls" tabindex="0" role="region" aria-label="{label}">'
        f'<table class="{kind}">'
        f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div></div>"
    )


def agreement_tables(content: Record) -> str:
    """Return for each set of labels its figures and its confusion matrix."""
    agreement = content.get("agreement")
    if not agreement:
        return ""
    against = agreement.get("against") or "the judgements"
    parts = []
    for labels in agreement["labels"]:
        rows = [
            f'<tr><th scope="row">{escaped(name)}</th><td>{number(value)}</td>'
            f"<td>{escaped((ends or '–').replace('..', ' to '))}</td></tr>"
            for name, value, ends in labels["measures"]
        ]
        head = '<tr><th scope="col">Figure</th><th scope="col">Value</th>'
        head += '<th scope="col">95% interval</th></tr>'
        caption = f"Agreement of {labels['name']} with {against}."
        parts.append(
            f'<h3>{isolated(labels["name"])}</h3><div class="beside">'
            + _table(head, rows, caption, "figures")
            + _confusion(labels, against)
            + "</div>"
        )
    return "".join(parts)


def _confusion(labels: Record, against: str) -> str:
    grades: Sequence[object] = labels["confusion"]["grades"]
    counts: Sequence[Sequence[int]] = labels["confusion"]["counts"]
    head = '<tr><th scope="col"><span class="corner">gold ↓ · label →</span></th>'
    head += "".join(f'<th scope="col">{escaped(grade)}</th>' for grade in grades) + "</tr>"
    rows = []
    for grade, row in zip(grades, counts, strict=True):
        total = sum(row)
        cells = []
        for other, count in zip(grades, row, strict=True):
            # Ten steps of shade by the share of the row: the policy allows no style attributes.
            shade = round(10 * count / total) if total else 0
            same = " same" if other == grade else ""
            cells.append(f'<td class="s{shade}{same}">{count:,}</td>')
        rows.append(f'<tr><th scope="row">{escaped(grade)}</th>{"".join(cells)}</tr>')
    caption = (
        f"Pairs by grade: rows are {against}, columns {labels['name']}. "
        "Shaded by the share of the row; the outlined diagonal is agreement."
    )
    return _table(head, rows, caption, "confusion")


def environment_table(content: Record) -> str:
    """Return names and values; those named ``group: name`` under the group's heading."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, value in content["environment"]:
        group, _, rest = name.rpartition(": ")
        groups.setdefault(group, []).append((rest, value))
    parts = []
    for group, rows in sorted(groups.items(), key=lambda item: item[0] != ""):
        heading = f"<h3>{isolated(group)}</h3>" if group else ""
        parts.append(f'{heading}<dl class="environment">{"".join(map(_entry, rows))}</dl>')
    return "".join(parts)


def _entry(row: tuple[str, str]) -> str:
    name, value = row
    long = ' class="long"' if len(value) > 60 else ""
    return f"<div{long}><dt>{escaped(name)}</dt><dd>{isolated(value)}</dd></div>"


def warning_list(content: Record) -> str:
    """Return the warnings as a list."""
    items = "".join(f"<li>{isolated(warning)}</li>" for warning in content["warnings"])
    return f'<ul class="warnings">{items}</ul>' if items else ""


def command_list(content: Record) -> str:
    """Return the commands, one a block."""
    return "".join(
        f'<pre tabindex="0"><code>{escaped(command)}</code></pre>'
        for command in content["commands"]
    )
