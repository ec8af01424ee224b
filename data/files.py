"""Reading text files line by line with their place in errors, and writing them whole or not at all.

A reader yields ``(Place, line)``; a parser that meets nonsense reports ``place.error(...)``, so
every message names file and line. Readers take what to do with an error: ``refuse``, the default,
raises it; whatever returns makes the reader go on behind it. A writer makes a sibling temporary
file and renames it.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import math
import os
import secrets
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from ranklens.data.errors import InvalidInputError, MissingResourceError

_SHOWN = 80


def shown(value: object) -> str:
    """Return a value as an error message shows it: quoted, and cut when it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, counted from 1, for error messages; in tables ``unit`` is ``row``."""

    path: Path
    line: int
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.path}:{'' if self.unit == 'line' else f' {self.unit} '}{self.line}"

    def error(self, message: str) -> InvalidInputError:
        """Return the error that says ``file:line: message``."""
        return InvalidInputError(f"{self}: {message}")

    def number(self, column: str, text: str) -> float:
        """Return the finite number that a column holds; InvalidInputError for anything else."""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        # float() reads 1_5 as 15.
        if "_" in text or not math.isfinite(value):
            raise self.error(f"the {column} {shown(text)} is not a finite number")
        return value

    def seen_from(self, other: Place) -> str:
        """Return this place for a message about ``other``: with the file only if it differs."""
        if self.path == other.path:
            return f"on {self.unit} {self.line}"
        return f"in {self}"


Report = Callable[[InvalidInputError], None]


def refuse(error: InvalidInputError) -> None:
    """Raise the error: what readers do with one unless told otherwise."""
    raise error from None


def read_lines(path: Path, report: Report = refuse) -> Iterator[tuple[Place, str]]:
    """Yield every non-blank line of a UTF-8 text file, plain or gzip, without its line end.

    Lines end with LF or CRLF only: a form feed or U+2028 inside a JSON text is content.
    Raises MissingResourceError without the file; reports InvalidInputError for bytes that are
    not UTF-8 (that line is left out) and for a damaged gzip (the rest is), naming the line.
    """
    if not path.is_file():
        raise MissingResourceError(f"no such file: {path}")
    number = 0
    try:
        with _open_bytes(path) as stream:
            for number, raw in enumerate(stream, start=1):
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    report(
                        Place(path, number).error(
                            f"not UTF-8 (byte {error.start + 1} of the line); "
                            "convert the file to UTF-8"
                        )
                    )
                    continue
                text = text.rstrip("\r\n")
                if text.strip():
                    yield Place(path, number), text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        report(Place(path, number + 1).error(f"damaged gzip file ({error})"))


def read_text(path: Path) -> str:
    """Return a UTF-8 text file (or pipe), plain or gzip, with its line ends as they are.

    Raises MissingResourceError without the file; InvalidInputError as ``decoded``, for a folder
    and for a damaged gzip.
    """
    if not path.exists():
        raise MissingResourceError(f"no such file: {path}")
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder; give the name of a file")
    try:
        with _open_bytes(path) as stream:
            raw = stream.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInputError(f"{path}: damaged gzip file ({error})") from None
    return decoded(raw, path)


def decoded(raw: bytes, path: Path) -> str:
    """Return bytes as text; InvalidInputError names ``path`` and the line that is not UTF-8."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Place(path, line).error(
            f"not UTF-8 (byte {error.start + 1} of the file); convert the file to UTF-8"
        ) from None


def _open_bytes(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def open_text(path: Path) -> IO[str]:
    """Open a UTF-8 text file, plain or gzip; its lines end with LF, and keep it."""
    return io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", newline="\n")


def read_json_lines(path: Path, report: Report = refuse) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield every JSON object of a JSONL file, plain or gzip; InvalidInputError names the line."""
    for place, line in read_lines(path, report):
        try:
            value = _json_object(place, line)
        except InvalidInputError as error:
            report(error)
            continue
        yield place, value


def _json_object(place: Place, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise place.error(f"not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise place.error("not JSON that can be read: it is nested too deep") from None
    except ValueError as error:
        # An integer of thousands of digits.
        raise place.error(f"not JSON that can be read ({error})") from None
    if not isinstance(value, dict):
        raise place.error(f"expected a JSON object, got {shown(value)}")
    if "\\ud" in line.lower() and not _encodable(value):
        raise place.error("a \\ud800 to \\udfff escape without its other half is not text")
    return value


def _encodable(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[str]]:
    """Open a text file that appears under its name only when the block ends without an error.

    Raises InvalidInputError, before the block, for a path that cannot be written.
    """
    # Two threads, or processes of two machines, may write the same file.
    writer = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{writer}.tmp")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = temporary.open("w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise InvalidInputError(f"cannot write {path}: {error.strerror}") from None
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            # A full disk does not say which file was too much for it.
            error.filename = str(path)
        raise


def write_json(path: Path, value: object) -> None:
    """Write a JSON file with sorted keys and a line end, whole or not at all."""
    with atomic_writer(path) as stream:
        json.dump(value, stream, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
