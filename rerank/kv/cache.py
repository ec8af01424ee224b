"""The cache of documents: memory first, then disk, and a count of what happened."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError
from ranklens.rerank.kv.disk import DamagedEntryError, Disk
from ranklens.rerank.kv.entry import STORAGES, Entry, Storage
from ranklens.rerank.kv.memory import Memory

if TYPE_CHECKING:
    import torch

MEMORY = 2**30
"""The default budget of the memory tier in bytes."""


@dataclass(slots=True)
class Counts:
    """Documents by where they came from, and entries that were found damaged.

    ``lost`` adds up the shares of attention that ``keep_tokens`` left out of those computed.
    """

    memory: int = 0
    disk: int = 0
    computed: int = 0
    damaged: int = 0
    lost: float = 0.0


class DocumentCache:
    """Keys and values of documents, by everything that they depend on.

    ``memory`` is a budget in bytes, on the device of the model; ``folder`` is where entries are
    kept from one process to the next (None: nowhere). ``storage`` and ``keep_tokens`` say how:
    see ``Entry``; with ``keep_tokens`` only that many tokens of a document, those to which a
    content-free query pays the most attention. One cache may serve several rerankers. Raises
    InvalidInputError for settings out of range.
    """

    def __init__(
        self,
        *,
        memory: int = MEMORY,
        folder: str | Path | None = None,
        storage: Storage = "exact",
        keep_tokens: int | None = None,
    ) -> None:
        if storage not in STORAGES:
            raise InvalidInputError(
                f"unknown storage {storage!r} for documents; choose {', '.join(STORAGES)}"
            )
        for name, value, least in (("memory", memory, 0), ("keep_tokens", keep_tokens, 1)):
            if value is not None and value < least:
                raise InvalidInputError(f"{name} must be at least {least}: {value}")
        self.folder = None if folder is None else Path(folder).expanduser()
        self.storage = storage
        self.keep_tokens = keep_tokens
        self.counts = Counts()
        self._memory = Memory(memory)
        self._disks: dict[str, Disk] = {}
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """The bytes that the memory tier holds."""
        return self._memory.held

    @property
    def not_written(self) -> str | None:
        """Why entries are no longer written to disk, or None."""
        return next((disk.full for disk in self._disks.values() if disk.full), None)

    def count(self, **more: float) -> None:
        """Add to the counts of these names."""
        with self._lock:
            for name, number in more.items():
                setattr(self.counts, name, getattr(self.counts, name) + number)

    def space(self, description: Mapping[str, Any]) -> Space:
        """Return the entries that were made with what ``description`` says.

        Raises InvalidInputError for a folder that cannot be written.
        """
        whole = {**description, "storage": self.storage, "keep_tokens": self.keep_tokens}
        name = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]
        with self._lock:
            if self.folder is not None and name not in self._disks:
                self._disks[name] = Disk(self.folder, name, whole)
        return Space(self, name, self._memory, self._disks.get(name))


@dataclass(frozen=True, slots=True)
class Space:
    """The part of a cache whose entries are interchangeable: one model, prefix and storage."""

    cache: DocumentCache
    name: str
    _memory: Memory = field(repr=False)
    _disk: Disk | None = field(repr=False)

    def get(self, document: str, device: torch.device, *, counted: bool = True) -> Entry | None:
        """Return the entry of a document by its hash, or None.

        Without ``counted`` it is no document; should it be damaged, that is counted still.
        """
        here = f"{self.name}/{device}/{document}"
        found = self._memory.get(here)
        if found is not None:
            self.cache.count(memory=int(counted))
            return found
        if self._disk is None:
            return None
        try:
            found = self._disk.get(document, device)
        except DamagedEntryError:
            self.cache.count(damaged=1)
            return None
        if found is not None:
            self.cache.count(disk=int(counted))
            self._memory.put(here, found)
        return found

    def put(
        self, document: str, entry: Entry, device: torch.device, *, counted: bool = True
    ) -> None:
        """Keep an entry that was computed on a device."""
        self.cache.count(computed=int(counted), lost=1 - entry.mass_kept)
        self._memory.put(f"{self.name}/{device}/{document}", entry)
        if self._disk is not None:
            self._disk.put(document, entry)
