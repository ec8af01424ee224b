"""What is removed from a folder of kept documents: leftovers, damaged and least used entries.

Only files with the names that ``Disk`` gives are looked at, so nothing else that lies in the
folder is ever touched.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.rerank.kv.disk import SPACE_FILE, DamagedEntryError, read_entry

_SPACE = re.compile(r"[0-9a-f]{16}")
_SHELF = re.compile(r"[0-9a-f]{2}")
_ENTRY = re.compile(r"[0-9a-f]{40}\.safetensors")
# An entry's name, or the description's, with the process that wrote it and its mark.
_LEFTOVER = re.compile(
    r"(?:[0-9a-f]{40}\.safetensors|\." + re.escape(SPACE_FILE) + r")\.(\d+)(?:-[0-9a-f]+)?\.tmp"
)


@dataclass(slots=True)
class Pruned:
    """What was removed, and what is left.

    ``damaged`` says what was wrong with each file; ``working`` are the half-written files of
    processes that still run, which stay.
    """

    leftovers: list[Path] = field(default_factory=list)
    damaged: dict[Path, str] = field(default_factory=dict)
    least_used: list[Path] = field(default_factory=list)
    spaces: list[Path] = field(default_factory=list)
    working: list[Path] = field(default_factory=list)
    bytes_removed: int = 0
    entries_left: int = 0
    bytes_left: int = 0


def prune(
    folder: Path,
    *,
    size: int | None = None,
    damaged: bool = False,
    watch: Callable[[Iterator[Path], int], Iterator[Path]] = lambda entries, _: entries,
) -> Pruned:
    """Remove the leftovers of writers that no longer run, and spaces that hold nothing.

    With ``damaged`` also every entry that fails its checksum, and with ``size`` those that were
    not used for longest, until entries take at most that many bytes. ``watch`` is given the
    entries to check and their number, to follow them. Raises MissingResourceError for a folder
    that is not there, InvalidInputError for one that holds no documents.
    """
    if not folder.exists():
        raise MissingResourceError(f"no such folder: {folder}")
    found = sorted(p for p in _children(folder) if p.is_dir() and _SPACE.fullmatch(p.name))
    if not found:
        raise InvalidInputError(
            f"{folder} holds no documents; `ranklens cache build` makes such a folder"
        )
    done = Pruned()
    for space in found:
        for path in _files(space):
            written = _LEFTOVER.fullmatch(path.name)
            if written is None:
                continue
            if _runs(int(written[1])):
                done.working.append(path)
            elif _removed(path, done):
                done.leftovers.append(path)
    entries = [path for space in found for path in _files(space) if _ENTRY.fullmatch(path.name)]
    if damaged:
        for path in watch(iter(entries), len(entries)):
            reason = _fault(path)
            if reason is not None and _removed(path, done):
                done.damaged[path] = reason
    _fit(entries, size, done)
    for space in found:
        if _empty(space):
            _clear(space)
            if not space.exists():
                done.spaces.append(space)
    return done


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _files(space: Path) -> Iterator[Path]:
    """Yield the files of a space, its description apart: its own, then its shelves'."""
    for path in _children(space):
        if _SHELF.fullmatch(path.name) and path.is_dir():
            yield from _children(path)
        elif path.name != SPACE_FILE:
            yield path


def _removed(path: Path, done: Pruned) -> bool:
    """Remove a file; False where another process was faster or it cannot be removed."""
    try:
        size = path.stat().st_size
        path.unlink()
    except OSError:
        return False
    done.bytes_removed += size
    return True


def _runs(process: int) -> bool:
    """Say whether a process of this machine lives; of another machine's nothing can be known."""
    if os.name != "posix":
        # Signal 0 is no question elsewhere.
        return process == os.getpid()
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process > 0


def _fault(path: Path) -> str | None:
    try:
        read_entry(path)
    except DamagedEntryError as error:
        return str(error)
    return None


def _fit(entries: list[Path], size: int | None, done: Pruned) -> None:
    """Remove entries, the least recently used first, and count what is left."""
    known = []
    for path in entries:
        with contextlib.suppress(FileNotFoundError):
            facts = path.stat()
            known.append((facts.st_mtime_ns, path, facts.st_size))
    left = sum(nbytes for _, _, nbytes in known)
    number = len(known)
    for _, path, nbytes in sorted(known):
        if size is None or left <= size:
            break
        if _removed(path, done):
            done.least_used.append(path)
            left -= nbytes
            number -= 1
    done.entries_left, done.bytes_left = number, left


def _empty(space: Path) -> bool:
    return next(_files(space), None) is None


def _clear(space: Path) -> None:
    """Remove the description and the folders of an empty space, as far as they are empty."""
    with contextlib.suppress(OSError):
        for shelf in _children(space):
            if _SHELF.fullmatch(shelf.name):
                shelf.rmdir()
        (space / SPACE_FILE).unlink(missing_ok=True)
        space.rmdir()
