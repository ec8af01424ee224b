"""``ranklens judge``: relevance labels by language models."""

from __future__ import annotations

import typer

from ranklens.cli.judge_combine import combine
from ranklens.cli.judge_label import label

app = typer.Typer(help="Label relevance by language models.")

app.command()(label)
app.command()(combine)
