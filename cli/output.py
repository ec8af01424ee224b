"""What commands say: results to standard output, everything else to standard error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.cli.escape import printable
from ranklens.data.errors import InvalidInputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def note(message: str) -> None:
    """Tell the user something on standard error; work goes on when nobody reads it any more."""
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(_harmless(message) + "\n")
        sys.stderr.flush()


def warn(messages: Iterable[str]) -> None:
    """Tell the user what to be careful about, one line each."""
    for message in messages:
        note(f"warning: {message}")


def check_output(path: Path) -> None:
    """Raise InvalidInputError, before the work, when a file cannot be written there after it."""
    if path.is_dir():
        raise InvalidInputError(f"cannot write {path}: it is a folder; give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"cannot write {path}: {error.strerror}") from None
    if not os.access(path.parent, os.W_OK):
        raise InvalidInputError(f"cannot write {path}: its folder is read-only")


def check_folder(path: Path) -> None:
    """Make a folder; InvalidInputError, before the work, when nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"cannot write in {path}: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise InvalidInputError(f"cannot write in {path}: the folder is read-only")


def print_json(value: object, *, ascii_only: bool = False) -> None:
    """Print a result for machines: one JSON value, NaN refused."""
    text = json.dumps(value, indent=2, ensure_ascii=ascii_only, allow_nan=False)
    sys.stdout.write(text + "\n")


def wrote(path: Path, as_json: bool, **counts: int) -> None:
    """Say which file was written, and how many of what is in it."""
    if as_json:
        print_json({"status": "ok", "file": str(path), **counts})
        return
    listed = ", ".join(f"{number} {name}" for name, number in counts.items())
    note(f"wrote {path}: {listed}" if listed else f"wrote {path}")


def print_text(text: str) -> None:
    """Print a line of a result."""
    sys.stdout.write(text + "\n")


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1
) -> None:
    """Print a table; the first ``text_columns`` columns are left-aligned text, the rest numbers."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    def cell(text: str) -> str:
        return escape(_harmless(text))

    table = Table(title=cell(title), title_justify="left", title_style="bold", box=box.SIMPLE)
    for position, column in enumerate(columns):
        numeric = position >= text_columns
        # Where it is too narrow, cells break: cut off, a number would look like another one.
        table.add_column(cell(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row))
    _console().print(table)


def _harmless(text: str) -> str:
    """Return a text, its line breaks kept, with nothing a terminal could act on."""
    return "\n".join(map(printable, text.split("\n")))


def print_styled(text: Text) -> None:
    """Print text with colours, wrapped to the terminal's width."""
    _console().print(text)


def _console() -> Console:
    from rich.console import Console

    # Where nobody watches, a narrow default width would break rows that tools read.
    width: Any = None if sys.stdout.isatty() else 1000
    return Console(file=sys.stdout, highlight=False, width=width)
