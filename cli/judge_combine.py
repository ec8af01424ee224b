"""``ranklens judge combine``: the labels of several judges as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ranklens.cli import options


def combine(
    labels: Annotated[list[Path], typer.Argument(metavar="LABELS...", help="Qrels files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The qrels file to write.")],
    by: Annotated[str, typer.Option(help="majority, median, or mean (rounded).")] = "majority",
    as_json: options.JsonOption = False,
) -> None:
    """Combine label files of several judges into one, pair by pair.

    Where two labels are as good (equally frequent, the two in the middle, a half) the lower one
    is taken: judges tend to grade too high. A pair that some files lack is labelled by the others.

    Example: ranklens judge combine one.txt two.txt three.txt --by median -o labels.txt
    """
    from ranklens.cli.output import check_output, note, print_json, warn
    from ranklens.data.qrels import read_qrels, write_qrels
    from ranklens.eval.judge.combine import combine as combined

    check_output(output)
    found = combined([read_qrels(path) for path in labels], by)
    write_qrels(found.qrels, output)
    pairs = sum(map(len, found.qrels.values()))
    if as_json:
        value = {"status": "ok", "labels": str(output), "pairs": pairs, "by": by}
        counts = {"unanimous": found.unanimous, "tied": found.tied, "incomplete": found.incomplete}
        print_json(value | counts)
        return
    if found.incomplete:
        warn([f"{found.incomplete} pairs are not in every file: labelled by the others"])
    note(
        f"wrote {output}: {pairs} pairs by {by}; {found.unanimous} unanimous, "
        f"{found.tied} decided by the rule on ties"
    )
