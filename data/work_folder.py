"""A folder of one long job: for one process at a time, never mixed with other files or settings."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError, RanklensError
from ranklens.data.files import write_json

_LOCK = ".lock"


class OtherSettingsError(InvalidInputError):
    """The folder holds a run with other settings than the ones wanted now."""


@contextlib.contextmanager
def open_work_folder(
    path: Path, files: Sequence[str], is_ours: Callable[[Path], bool]
) -> Iterator[Path]:
    """Make a folder, or open it again, and hold it; RanklensError when another process has it.

    ``files`` are the names a job writes there by renaming, ``is_ours`` says whether a folder is
    such a job's. What a kill left of a file that was being written is removed. Raises
    InvalidInputError for a folder that holds other files and no job, so that a wrong ``--out``
    cannot mix with somebody's files or destroy them.
    """
    from filelock import FileLock, Timeout

    if path.exists() and not path.is_dir():
        raise InvalidInputError(f"--out {path} is a file; give a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not is_ours(path):
            _refuse_strangers(path, files)
        lock = FileLock(path / _LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise RanklensError(f"another process is working in {path}; wait for it") from None
    except OSError as error:
        if isinstance(error, RanklensError):
            raise
        raise InvalidInputError(f"cannot use --out {path}: {error.strerror}") from None
    try:
        for entry in path.iterdir():
            if _is_torn(entry.name, files):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        yield path
    finally:
        lock.release()


def begin_settings(path: Path, wanted: Any, job: str, way_out: str) -> bool:
    """Write a job's settings to ``path``, or check them against those of an earlier start.

    Returns whether there was one. Raises OtherSettingsError naming what differs, so that results
    of two settings never mix; ``way_out`` says what to do then.
    """
    if not path.is_file():
        write_json(path, wanted)
        return False
    found = list(differences(json.loads(path.read_text(encoding="utf-8")), wanted))
    if found:
        raise OtherSettingsError(
            f"{path.parent} holds {job} with other settings: {'; '.join(found[:3])}. {way_out}"
        )
    return True


def differences(found: Any, wanted: Any, at: str = "") -> Iterator[str]:
    """Yield where two JSON values differ: the field, what it was and what it is now."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted({*found, *wanted})
        if found.get("kind") != wanted.get("kind"):
            # Settings of another kind are others anyway.
            keys = ["kind"]
        for key in keys:
            yield from differences(found.get(key), wanted.get(key), f"{at}.{key}" if at else key)
    elif found != wanted:
        yield f"{at} was {found!r} and is now {wanted!r}"


def _refuse_strangers(path: Path, files: Sequence[str]) -> None:
    strangers = sorted(
        entry.name
        for entry in path.iterdir()
        if entry.name != _LOCK and not _is_torn(entry.name, files)
    )
    if strangers:
        raise InvalidInputError(
            f"--out {path} holds other files ({strangers[0]}); give a new or empty folder"
        )


def _is_torn(name: str, files: Sequence[str]) -> bool:
    """Say whether a file or folder is what a kill leaves of one of ours that was being written."""
    return name.endswith(".tmp") and name.startswith(tuple(f".{known}." for known in files))
