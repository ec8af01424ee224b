"""Entries in memory, within a budget of bytes; what was not asked for longest goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict

from ranklens.rerank.kv.entry import Entry


class Memory:
    """A mapping of names to entries that holds at most ``budget`` bytes. Thread-safe."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.held = 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str) -> Entry | None:
        """Return an entry, which is then the last one to go, or None."""
        with self._lock:
            found = self._entries.get(name)
            if found is not None:
                self._entries.move_to_end(name)
            return found

    def put(self, name: str, entry: Entry) -> None:
        """Keep an entry, and drop others for it; one beyond the whole budget is not kept."""
        with self._lock:
            before = self._entries.pop(name, None)
            self.held -= 0 if before is None else before.nbytes
            if entry.nbytes > self.budget:
                return
            self._entries[name] = entry
            self.held += entry.nbytes
            while self.held > self.budget:
                _, dropped = self._entries.popitem(last=False)
                self.held -= dropped.nbytes
