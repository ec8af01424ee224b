"""The ``ranklens`` program: its commands, and how errors become messages and exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated, Any

import typer

from ranklens import __version__
from ranklens.cli import (
    bias,
    cache,
    calibrate,
    compare,
    data,
    demo,
    doctor,
    evaluate,
    explain,
    explain_diff,
    export,
    find,
    fuse,
    heads,
    judge,
    models,
    positions,
    report,
    reproduce,
    rerank,
    retrieve,
    run,
    serve,
    train,
    udcg,
)
from ranklens.data.errors import MissingPrerequisiteError, PartialError, RanklensError, UsageError

app = typer.Typer(
    name="ranklens",
    help="Rerank documents by a language model's attention, and evaluate as trec_eval would.",
    epilog="Example: ranklens demo",
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
app.command()(fuse.fuse)
app.command()(rerank.rerank)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(report.report)
app.command()(explain_diff.explain_diff)
app.add_typer(judge.app, name="judge")
app.add_typer(udcg.app, name="udcg")
app.add_typer(export.app, name="export")
app.command()(reproduce.reproduce)
app.command()(serve.serve)
app.command()(explain.explain)
app.command()(find.find)
app.command()(calibrate.calibrate)
app.command()(bias.bias)
app.add_typer(heads.app, name="heads")
app.add_typer(positions.app, name="positions")
app.add_typer(train.app, name="train")
app.add_typer(data.app, name="data")
app.add_typer(cache.app, name="cache")
app.add_typer(models.app, name="models")
app.command()(doctor.doctor)


def main() -> None:
    """Run the program; whatever goes wrong becomes one message and an exit code."""
    raise SystemExit(_finished(_run()))


# click's base of what is wrong with a call; some versions of typer carry their own click.
_CALL_ERROR: Any = typer.BadParameter.__base__
_INTERRUPTED = 130


def _run() -> int:
    try:
        result = app(prog_name="ranklens", standalone_mode=False)
    except RanklensError as error:
        return _failed(error.exit_code, str(error))
    except _CALL_ERROR as error:
        error.show()
        return _failed(UsageError.exit_code, error.format_message(), shown=True)
    except (KeyboardInterrupt, typer.Abort):
        result = _INTERRUPTED
    except SystemExit:
        # typer and rich end so when the reader of a pipe has gone (| head): nothing went wrong.
        _silence()
        return 0
    except Exception as error:
        if os.environ.get("RANKLENS_TRACEBACK"):
            raise
        return _failed(*_unforeseen(error))
    if result == _INTERRUPTED:
        return _failed(PartialError.exit_code, "interrupted")
    return result if isinstance(result, int) else 0


def _unforeseen(error: Exception) -> tuple[int, str]:
    """Return exit code and message for an error that no code of ours has foreseen."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return RanklensError.exit_code, f"{where}{error.strerror}"
    what = str(error).strip().partition("\n")[0]
    kind = type(error).__name__
    if isinstance(error, ImportError):
        return MissingPrerequisiteError.exit_code, f"{kind}: {what}; see `ranklens doctor`"
    return RanklensError.exit_code, f"{kind}: {what} (RANKLENS_TRACEBACK=1 shows where)"


def _failed(code: int, message: str, *, shown: bool = False) -> int:
    from ranklens.cli.output import note, print_json

    if "--json" in sys.argv:
        # Where standard output is what failed, the message below is all that can be said.
        with contextlib.suppress(OSError):
            print_json({"status": "error", "exit_code": code, "message": message})
    if not shown:
        note(f"error: {message}")
    return code


def _finished(code: int) -> int:
    """Write out what is buffered while errors can still be told, and return the exit code."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()
    except OSError as error:
        sys.stderr.write(f"error: cannot write to standard output: {error.strerror}\n")
        _silence()
        return code or RanklensError.exit_code
    return code


def _silence() -> None:
    """Let what is still buffered go nowhere, or the interpreter complains when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())


if __name__ == "__main__":
    main()
