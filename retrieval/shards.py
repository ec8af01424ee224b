"""Vectors of a collection in shards: each written whole, mapped into memory to be read.

vectors-00000.npy      float32 of shape [SHARD, dimension]; the last one is shorter
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ranklens.data.encoder import Vectors
from ranklens.data.errors import InvalidInputError
from ranklens.data.records import Document

SHARD = 4096
"""Documents of a shard: what an interruption costs at most."""


@dataclass(frozen=True, slots=True)
class Written:
    """How many documents were computed now, and how many had been before."""

    computed: int
    kept: int


class Shards:
    """The vectors of an index, by row, on the disk until they are asked for."""

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("vectors-*.npy"))
        if not files:
            raise InvalidInputError(f"{folder} has no vectors")
        self._parts = [np.load(file, mmap_mode="r") for file in files]
        self.dimension = int(self._parts[0].shape[1])

    def __len__(self) -> int:
        return (len(self._parts) - 1) * SHARD + len(self._parts[-1])

    def parts(self) -> Iterator[tuple[int, Vectors]]:
        """Yield every shard with the row that it begins with."""
        for number, part in enumerate(self._parts):
            yield number * SHARD, part

    def take(self, rows: NDArray[np.int64]) -> Vectors:
        """Return these rows in this order, float32 of shape [rows, dimension]."""
        taken = np.empty((len(rows), self.dimension), dtype=np.float32)
        numbers, within = np.divmod(rows, SHARD)
        for number in np.unique(numbers):
            of_part = numbers == number
            taken[of_part] = self._parts[number][within[of_part]]
        return taken


def write_shards(
    documents: Iterable[Document],
    folder: Path,
    encode: Callable[[int, list[Document]], Vectors],
    done: Callable[[int], None],
) -> Written:
    """Write the vectors of documents, a shard at a time; shards that are there stay.

    ``encode`` takes the number of a shard and its documents. Whoever calls knows that what is
    there is of the same documents and the same model.
    """
    computed = kept = 0
    stream = iter(documents)
    chunks = iter(lambda: list(itertools.islice(stream, SHARD)), [])
    for number, chunk in enumerate(chunks):
        path = folder / f"vectors-{number:05d}.npy"
        if _there(path, len(chunk)):
            kept += len(chunk)
            done(len(chunk))
            continue
        _write(path, encode(number, chunk))
        computed += len(chunk)
    return Written(computed, kept)


def _write(path: Path, vectors: Vectors) -> None:
    """Write a shard, whole or not at all; numpy's own message would not say which file."""
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            np.save(file, vectors)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InvalidInputError(f"cannot write {path}: {error.strerror or error}") from None


def _there(path: Path, rows: int) -> bool:
    try:
        return len(np.load(path, mmap_mode="r")) == rows
    except (OSError, ValueError):
        return False
