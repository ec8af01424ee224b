"""Indexes in folders: built once, whole or not at all, and used again by checksum.

    NAME/manifest.json     what was indexed by what: format, retriever's settings, checksum of the
                           documents, versions, and the name and size of every file
    NAME/…                 the retriever's own files
    .NAME.building/        one that is being built, with plan.json in it
    .NAME.lock             held while it is

A folder appears under its name when everything in it is on the disk, so a process that is killed
leaves only ``.NAME.building``: the next one goes on with it where the retriever can and the plan is
the same, and clears it away otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ranklens.data.documents import DocumentSource
from ranklens.data.errors import InvalidInputError, MissingResourceError, RanklensError
from ranklens.data.files import write_json
from ranklens.retrieval.base import Retriever

FORMAT = 1
MANIFEST = "manifest.json"
_PLAN = "plan.json"
_TABLES = ("settings", "facts", "files")
_ANEW = "`ranklens retrieve --overwrite` builds it anew"


class BusyError(RanklensError):
    """Another process is building the index."""


@dataclass(frozen=True, slots=True)
class OpenedIndex:
    """An index that was opened: where, whether it was built for that, and its manifest."""

    folder: Path
    built: bool
    manifest: Mapping[str, Any]

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the retriever's ``build`` told: the number of ``documents`` and more."""
        facts: Mapping[str, Any] = self.manifest["facts"]
        return facts


def open_index(
    retriever: Retriever, folder: Path, documents: DocumentSource, *, overwrite: bool = False
) -> OpenedIndex:
    """Open the index of these documents in ``folder``; build it where there is none.

    Raises InvalidInputError for an index of other documents, settings or format, or one that
    lacks files (unless ``overwrite``, which builds it anew), and always for a folder that is no
    index, or whose manifest does not say so; BusyError while another process builds it.
    """
    # A link stays one: what it points to is replaced.
    folder = folder.expanduser().resolve()
    wanted = _plan(retriever, documents)
    if folder.exists() and not (overwrite and _replaceable(folder)):
        manifest = _checked(folder, wanted)
        retriever.open(folder)
        return OpenedIndex(folder, False, manifest)
    with _building(folder) as workshop:
        # Another process may have built it since.
        if folder.exists() and not overwrite:
            manifest = _checked(folder, wanted)
            retriever.open(folder)
            return OpenedIndex(folder, False, manifest)
        manifest = _built(retriever, folder, workshop, documents, wanted)
    retriever.open(folder)
    return OpenedIndex(folder, True, manifest)


def check_index(retriever: Retriever, folder: Path, documents: DocumentSource) -> None:
    """Raise InvalidInputError where ``open_index`` would for what is there; nothing is built."""
    folder = folder.expanduser().resolve()
    if folder.exists():
        _checked(folder, _plan(retriever, documents))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an index, its files checked for name and size.

    Raises MissingResourceError where there is no folder; InvalidInputError for a folder that is
    no index, one of another format, and one that lacks some of its files.
    """
    if not folder.exists():
        raise MissingResourceError(f"no index {folder}")
    if not folder.is_dir():
        raise InvalidInputError(f"{folder} is a file, not the folder of an index")
    path = folder / MANIFEST
    if not path.is_file():
        raise InvalidInputError(
            f"{folder} is not an index: it has no {MANIFEST}; give a new folder, or remove it"
        )
    manifest = _read(path)
    if not _is_of_index(manifest):
        raise InvalidInputError(
            f"{folder} is not an index: its {MANIFEST} is damaged, or of something else; "
            "give a new folder, or remove it"
        )
    if manifest["format"] != FORMAT:
        raise InvalidInputError(
            f"{folder} is an index of format {manifest['format']!r}, made by ranklens "
            f"{manifest.get('ranklens', '?')}; this version reads format {FORMAT}: {_ANEW}"
        )
    for name, size in manifest["files"].items():
        file = folder / name
        there = file.stat().st_size if file.is_file() else None
        if there != size:
            state = "is missing" if there is None else f"has {there} bytes instead of {size}"
            raise InvalidInputError(f"the index {folder} is damaged: {name} {state}; {_ANEW}")
    return dict(manifest)


def _plan(retriever: Retriever, documents: DocumentSource) -> dict[str, Any]:
    plan = {"settings": retriever.settings(), "documents": documents.fingerprint()}
    return dict(json.loads(json.dumps(plan)))


def _replaceable(folder: Path) -> bool:
    """Say whether a folder may be replaced: it has the manifest of an index, or is empty."""
    return folder.is_dir() and (_is_of_index(_read(folder / MANIFEST)) or not any(folder.iterdir()))


def _is_of_index(manifest: Any) -> bool:
    """Say whether a manifest is one of an index: many programs call a file manifest.json."""
    return (
        isinstance(manifest, dict)
        and {"format", "documents"} <= manifest.keys()
        and all(isinstance(manifest.get(name), dict) for name in _TABLES)
    )


def _checked(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    manifest = read_manifest(folder)
    differing = [
        f"{name}: {_short(there)} there, {_short(asked)} wanted"
        for name, there, asked in _differences(manifest, wanted)
    ]
    if differing:
        raise InvalidInputError(
            f"the index {folder} is of something else: {'; '.join(differing[:3])}. "
            f"Give another folder, or {_ANEW}"
        )
    return manifest


def _differences(
    manifest: Mapping[str, Any], wanted: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    there, asked = manifest["settings"], wanted["settings"]
    if there.get("retriever") != asked["retriever"]:
        yield "retriever", there.get("retriever"), asked["retriever"]
        return
    if manifest["documents"] != wanted["documents"]:
        yield "documents", manifest["documents"], wanted["documents"]
    yield from _differing("", there, asked)


def _differing(
    within: str, there: Mapping[str, Any], asked: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*there, *asked}):
        one, other = there.get(name), asked.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differing(f"{within}{name}.", one, other)
        elif one != other:
            yield f"{within}{name}", one, other


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


@contextlib.contextmanager
def _building(folder: Path) -> Iterator[Path]:
    """Hold the right to build an index, and give the folder to do it in."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyError(
            f"another process is building the index {folder}; wait for it, or give another folder"
        ) from None
    except OSError as error:
        raise InvalidInputError(f"cannot write the index {folder}: {error.strerror}") from None
    try:
        yield folder.with_name(f".{folder.name}.building")
    finally:
        lock.release()


def _built(
    retriever: Retriever,
    folder: Path,
    workshop: Path,
    documents: DocumentSource,
    wanted: Mapping[str, Any],
) -> dict[str, Any]:
    plan = workshop / _PLAN
    if workshop.exists() and not (retriever.resumes and _read(plan) == wanted):
        shutil.rmtree(workshop)
    workshop.mkdir(exist_ok=True)
    # Of a process that was killed just before the end: it is none of the index's files.
    (workshop / MANIFEST).unlink(missing_ok=True)
    write_json(plan, wanted)
    try:
        facts = retriever.build(documents, workshop)
    except BaseException:
        if not retriever.resumes:
            shutil.rmtree(workshop, ignore_errors=True)
        raise
    files = sorted(file for file in workshop.rglob("*") if file.is_file() and file != plan)
    manifest = {
        "format": FORMAT,
        "ranklens": version("ranklens"),
        **wanted,
        "facts": facts,
        "files": {file.relative_to(workshop).as_posix(): file.stat().st_size for file in files},
    }
    write_json(workshop / MANIFEST, manifest)
    for file in files:
        _to_disk(file)
    _swap(workshop, folder)
    # Until here a process that is killed leaves something to go on with.
    (folder / _PLAN).unlink()
    return manifest


def _read(file: Path) -> Any:
    """Return what a JSON file holds, None where there is none or it is damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _to_disk(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _swap(workshop: Path, folder: Path) -> None:
    """Put a finished index in its place; one that is there makes way."""
    former = folder.with_name(f".{folder.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if folder.exists():
        folder.rename(former)
    workshop.rename(folder)
    shutil.rmtree(former, ignore_errors=True)
