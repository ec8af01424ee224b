"""``ranklens judge``: relevance labels by models, and how far they can be trusted."""

from __future__ import annotations

import typer

from ranklens.cli.judge_agree import agree

app = typer.Typer(
    no_args_is_help=True,
    help="Compare a judge's relevance labels with gold labels.",
    epilog="Example: ranklens judge agree qrels.txt labels.txt --runs runs/",
)
app.command("agree")(agree)
