"""What a reader said, kept on disk so that it is never asked the same twice.

A file of JSON lines: the first one says what all the others depend on (model, revision, template,
dtype), each other one is a key and a value. Lines are only ever added, and one that a kill has torn
is cut off when the file is opened again: work that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError, RanklensError


def digest(*parts: object) -> str:
    """Return a hash of JSON values that tells any two sequences of them apart."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Kept:
    """An opened file of what was said; use ``open_kept``."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
        lines = content[:whole].splitlines()
        if not lines:
            self._append([json.dumps(settings, sort_keys=True)])
            return
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                if number == 1:
                    same = record == settings
                else:
                    self._values[record["key"]] = record["value"]
            except (ValueError, KeyError, TypeError):
                same = False
            if not same:
                raise InvalidInputError(
                    f"{path}:{number}: not a line that ranklens keeps for these settings; "
                    "delete the file to have it made again"
                )

    def get(self, key: str) -> Any:
        """Return what is kept under a key, None where nothing is."""
        return self._values.get(key)

    def put(self, values: Sequence[tuple[str, Any]]) -> None:
        """Add keys and values; they are on the disk when this returns."""
        if values:
            self._append([json.dumps({"key": key, "value": value}) for key, value in values])
            self._values.update(values)

    def _append(self, lines: Sequence[str]) -> None:
        with self._path.open("ab") as stream:
            stream.write("".join(f"{line}\n" for line in lines).encode())
            stream.flush()
            os.fsync(stream.fileno())


@contextmanager
def open_kept(folder: Path, settings: Mapping[str, Any]) -> Iterator[Kept]:
    """Open the file of these settings in a folder, for one process at a time.

    Raises RanklensError when another process has it, InvalidInputError for a file whose lines
    are not ours and a folder that cannot be written.
    """
    from filelock import FileLock, Timeout

    path = folder / f"{digest(settings)[:16]}.jsonl"
    lock = FileLock(path.with_suffix(".lock"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RanklensError(
            f"another process asks the same model and keeps its answers in {path}; wait for it"
        ) from None
    except OSError as error:
        raise InvalidInputError(f"cannot write in {folder}: {error.strerror}") from None
    try:
        yield Kept(path, settings)
    finally:
        lock.release()
