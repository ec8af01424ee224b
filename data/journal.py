"""A file that work is written to as it is done, so that a kill loses no more than its last line.

The first line says what the rest depends on. Lines are JSON, appended one by one; a last line
without its end was torn by a kill and is cut off when the file is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError, RanklensError
from ranklens.data.files import Place, read_json_lines


class Journal:
    """An opened journal; use ``open_journal``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Yield what was appended, with its place."""
        lines = read_json_lines(self.path)
        next(lines)
        yield from lines

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a line; it is on the disk when this returns. NaN is refused."""
        line = json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n"
        with self.path.open("ab") as stream:
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())


@contextmanager
def open_journal(path: Path, made_with: Mapping[str, Any]) -> Iterator[Journal]:
    """Open a journal for one process, or begin it; ``made_with`` is what its lines depend on.

    Raises RanklensError when another process has it, InvalidInputError for a file that was made
    with something else or is no journal, and one that cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        lock.acquire(timeout=0)
    except Timeout:
        raise RanklensError(f"another process is writing {path}; wait for it") from None
    except OSError as error:
        raise InvalidInputError(f"cannot write {path}: {error.strerror}") from None
    try:
        journal = Journal(path)
        _begin(journal, {"made_with": made_with})
        yield journal
    finally:
        lock.release()


def _begin(journal: Journal, first: Mapping[str, Any]) -> None:
    path = journal.path
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
        if whole:
            [(_, found)] = [next(read_json_lines(path), (None, {}))]
            if found != json.loads(json.dumps(first)):
                raise InvalidInputError(
                    f"{path} was made with other settings, or by something else; give another "
                    "place, or remove it"
                )
            return
    journal.append(first)
