"""Document ids beside an index: written once, mapped into memory, looked up by row."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

_TEXT, _ENDS = "ids.utf8", "ids.ends.npy"


class Ids:
    """The ids of an index's rows, on the disk until they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._ends = np.load(folder / _ENDS, mmap_mode="r")
        self._text = np.memmap(folder / _TEXT, dtype=np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> str:
        if not 0 <= row < len(self):
            raise IndexError(row)
        start = int(self._ends[row - 1]) if row else 0
        return self._text[start : int(self._ends[row])].tobytes().decode("utf-8", "surrogatepass")


def write_ids(folder: Path, ids: Iterable[str]) -> int:
    """Write the ids of the rows 0, 1, … into a folder and return how many there are."""
    ends, position = [], 0
    with (folder / _TEXT).open("wb") as stream:
        for doc_id in ids:
            raw = doc_id.encode("utf-8", "surrogatepass")
            stream.write(raw)
            position += len(raw)
            ends.append(position)
    np.save(folder / _ENDS, np.array(ends, dtype=np.int64))
    return len(ends)
