"""``ranklens train``: decoders whose attention is trained to point at the right documents."""

from __future__ import annotations

import typer

from ranklens.cli import train_lists, train_model, train_queries

app = typer.Typer(
    no_args_is_help=True,
    help="Train a decoder's attention to rank: its data, its lists, the model.",
    epilog="Example: ranklens train model lists -o trained --steps 300",
)

app.command("queries")(train_queries.queries)
app.command("lists")(train_lists.lists)
app.command("model")(train_model.model)
