"""Entries on disk: one safetensors file each, whole or not there, with a checksum.

    FOLDER/<space>/space.json            what the entries were made with
    FOLDER/<space>/<ab>/<name>.safetensors

A file is written under another name and renamed, so a process that is killed leaves no entry but
a ``.tmp`` file. What is read is mapped, copied, and compared with its SHA-256 before it is used;
a file that does not pass is as good as absent, and is said to be damaged.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError, MissingResourceError, RanklensError
from ranklens.data.files import write_json
from ranklens.rerank.kv.entry import Entry

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

SPACE_FILE = "space.json"
_SUFFIX = ".safetensors"
_TEMPORARY = ".tmp"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DamagedEntryError(Exception):
    """A file that is no entry, or another one, or whose bytes have changed."""


class Disk:
    """The entries of one space; ``description`` is what they were made with."""

    def __init__(self, folder: Path, space: str, description: Mapping[str, Any]) -> None:
        self.folder = folder / space
        self.full: str | None = None
        self._description = dict(description)
        try:
            self._describe()
        except OSError as error:
            # A disk that is full today is no wrong folder.
            kind = RanklensError if error.errno in _NO_ROOM else InvalidInputError
            raise kind(f"cannot keep documents in {folder}: {error.strerror}") from None

    def get(self, name: str, device: torch.device) -> Entry | None:
        """Return an entry on a device, or None; DamagedEntryError, logged, for a damaged one."""
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            found = read_entry(path, self.folder.name)
        except DamagedEntryError as error:
            _log.warning("%s is damaged (%s): the document is computed again", path, error)
            raise
        try:
            os.utime(path)
        except OSError:
            # Only the order in which a prune goes through entries depends on it.
            _log.debug("cannot touch %s", path)
        tensors = {key: tensor.to(device) for key, tensor in found.tensors.items()}
        return Entry(tensors, found.length, found.mass_kept)

    def put(self, name: str, entry: Entry) -> None:
        """Write an entry; where that fails say so once, and write no more.

        ``full`` is then the reason.
        """
        if self.full is not None:
            return
        path = self._path(name)
        # Two threads, or processes of two machines, may write the same document.
        writer = f"{os.getpid()}-{secrets.token_hex(4)}"
        temporary = path.with_name(f"{path.name}.{writer}{_TEMPORARY}")
        try:
            # A prune may have removed the space while it was empty.
            if not self.folder.is_dir():
                self._describe()
            packed = _packed(self.folder.name, name, entry)
            path.parent.mkdir(exist_ok=True)
            try:
                temporary.write_bytes(packed)
            except FileNotFoundError:
                # A prune may do so between two lines.
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_bytes(packed)
            temporary.replace(path)
        except (OSError, InvalidInputError) as error:
            _remove(temporary)
            self.full = getattr(error, "strerror", None) or str(error)
            _log.warning(
                "cannot write %s: %s; documents are no longer kept on disk", path, self.full
            )
        except BaseException:
            # Ctrl-C too leaves nothing half written.
            _remove(temporary)
            raise

    def _describe(self) -> None:
        """Make the folder, and write what its entries were made with unless it says so."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if described(self.folder) != json.loads(json.dumps(self._description)):
            write_json(self.folder / SPACE_FILE, self._description)

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}{_SUFFIX}"


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def read_entry(path: Path, space: str | None = None) -> Entry:
    """Return the entry of a file; DamagedEntryError says what is wrong with it.

    ``space`` is the one it has to be of, by default that of the folder it lies in. The file is
    mapped, and copied before it is checked: what is checked is what is used, whatever happens
    to the file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            names = stored.keys()
            tensors = {name: stored.get_tensor(name).clone() for name in names}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DamagedEntryError(str(error).strip().partition("\n")[0]) from None
    if metadata.get("name") != path.name.removesuffix(_SUFFIX):
        raise DamagedEntryError("it holds another document")
    if metadata.get("space") != (space or path.parent.parent.name):
        raise DamagedEntryError("it was made with another model or other settings")
    if metadata.get("sha256") != _checksum(tensors, metadata):
        raise DamagedEntryError("its bytes are not those that were written")
    return Entry(tensors, int(metadata["length"]), float(metadata["mass_kept"]))


def mass_kept(path: Path) -> float | None:
    """Return the share of attention that an entry's tokens had, None for a damaged file.

    Only the header is read: whether the tensors are whole is not seen.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            return float((stored.metadata() or {})["mass_kept"])
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError):
        return None


def _packed(space: str, name: str, entry: Entry) -> bytes:
    from safetensors.torch import save

    tensors = {key: tensor.cpu().contiguous() for key, tensor in entry.tensors.items()}
    metadata = {
        "space": space,
        "name": name,
        "length": str(entry.length),
        "mass_kept": repr(entry.mass_kept),
    }
    return save(tensors, metadata | {"sha256": _checksum(tensors, metadata)})


def _checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes, and of the metadata."""
    import torch

    said = [f"{key} {value}" for key, value in sorted(metadata.items()) if key != "sha256"]
    digest = hashlib.sha256("\n".join(said).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Kept:
    """What a space on disk holds: its description, its entries, their bytes, what was left over.

    ``files`` are (time of last use, path, bytes); ``leftovers`` the files of writers that were
    killed.
    """

    folder: Path
    description: dict[str, Any]
    files: tuple[tuple[float, Path, int], ...]
    leftovers: tuple[Path, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of all entries."""
        return sum(size for _, _, size in self.files)


def described(space: Path) -> dict[str, Any] | None:
    """Return what the entries of a space's folder were made with, None where that is damaged."""
    try:
        found = json.loads((space / SPACE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def spaces(folder: Path) -> list[Path]:
    """Return the folders of a cache folder's spaces; none where it is not there."""
    return sorted(path.parent for path in folder.glob(f"*/{SPACE_FILE}"))


def kept(folder: Path) -> Iterator[Kept]:
    """Yield what each space of a cache folder holds.

    Raises MissingResourceError for a folder that is not there, InvalidInputError for one that
    holds no documents.
    """
    if not folder.exists():
        raise MissingResourceError(
            f"no such folder: {folder}; `ranklens cache build` makes one that keeps documents"
        )
    found = spaces(folder)
    if not found:
        raise InvalidInputError(
            f"{folder} holds no documents; `ranklens cache build` makes such a folder"
        )
    for space in found:
        files, leftovers = [], []
        for path in sorted(space.glob("??/*")):
            if path.name.endswith(_TEMPORARY):
                leftovers.append(path)
            elif path.name.endswith(_SUFFIX):
                # Another process may have pruned it by now.
                with contextlib.suppress(FileNotFoundError):
                    facts = path.stat()
                    files.append((facts.st_mtime, path, facts.st_size))
        description = described(space) or {"damaged": True}
        yield Kept(space, description, tuple(files), tuple(leftovers))
