"""The ``ranklens`` program: its commands, and how errors become messages and exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ranklens import __version__
from ranklens.cli import demo, doctor, evaluate, models, rerank, retrieve, run
from ranklens.data.errors import RanklensError

app = typer.Typer(
    name="ranklens",
    help="Rerank documents by a language model's attention, and evaluate as trec_eval would.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"ranklens {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


app.command()(demo.demo)
app.command()(run.run)
app.command()(retrieve.retrieve)
app.command()(rerank.rerank)
app.command()(evaluate.evaluate)
app.add_typer(models.app, name="models")
app.command()(doctor.doctor)


def main() -> None:
    """Run the program; RanklensErrors become one message and their exit code."""
    try:
        app()
    except RanklensError as error:
        if "--json" in sys.argv:
            from ranklens.cli.output import print_json

            print_json({"status": "error", "exit_code": error.exit_code, "message": str(error)})
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
