"""``ranklens find``: the sentences of a long text that matter to a query."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ranklens.cli import options
from ranklens.cli.specs import DEFAULT_MODEL, pull_model
from ranklens.data.errors import InvalidInputError


def find(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.")],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A text (UTF-8, or .gz); - reads it.")
    ],
    model: Annotated[
        str, typer.Option(help="A name of `ranklens models list`, a folder, or a hub id.")
    ] = DEFAULT_MODEL,
    top: Annotated[int, typer.Option("-k", min=1, help="Sentences to show.")] = 10,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Find the sentences of a text of any length that a query attends to, best first.

    The text is read in chunks; what matters is carried from one to the next (as InfiniRetri
    does), so that it may be longer than the model's context. Offsets are half-open and count
    code points.

    Example: ranklens find "who may vote" constitution.txt -k 5
    """
    from ranklens.cli.escape import printable
    from ranklens.cli.output import note, print_json, print_text
    from ranklens.cli.progress import progress
    from ranklens.data.files import decoded, read_text
    from ranklens.data.models import resolve
    from ranklens.rerank.engine import AttentionEngine
    from ranklens.rerank.stream import find_passages

    standard_input = str(file) == "-"
    text = decoded(sys.stdin.buffer.read(), file) if standard_input else read_text(file)
    if not text.strip():
        raise InvalidInputError(f"{file}: there is no text in it")
    if not query.strip():
        raise InvalidInputError("the query is empty: there is nothing to find")
    pull_model(model)
    note(f"loading {model}")
    resolved = resolve(model)
    engine = AttentionEngine.from_pretrained(
        resolved.path, device=device, dtype=dtype, adapters=resolved.adapters
    )
    with progress("reading", len(text), "characters") as advance:
        found = find_passages(engine, query, text, advance=advance)
    shown = found[:top]
    if as_json:
        sentences = [{**one._asdict(), "text": text[one.start : one.end]} for one in shown]
        print_json({"status": "ok", "kept": len(found), "sentences": sentences}, ascii_only=True)
        return
    for one in shown:
        print_text(
            f"{one.score:.4g}  [{one.start}, {one.end})  {printable(text[one.start : one.end])}"
        )
