"""``ranklens judge``: relevance labels by models, and how far they can be trusted."""

from __future__ import annotations

import typer

from ranklens.cli.judge_agree import agree
from ranklens.cli.judge_combine import combine
from ranklens.cli.judge_label import label

app = typer.Typer(
    no_args_is_help=True,
    help="Label relevance by language models, and see how far the labels can be trusted.",
    epilog="Example: ranklens judge agree qrels.txt labels.txt --runs runs/",
)
app.command()(label)
app.command()(combine)
app.command()(agree)
