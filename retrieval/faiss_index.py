"""Nearest vectors by inner product: exact, or approximate with exact scores, by Faiss.

    flat      every vector, straight from the mapped shards
    hnsw      a graph over full vectors (HNSW32)
    ivfpq     inverted lists of product-quantised vectors, half a byte per four dimensions
    sq8       one byte per dimension
    rabitq    one bit per dimension after a random rotation (RaBitQ, arXiv 2405.12497)

Every kind but flat proposes candidates, more of them the coarser it is; their scores are then
computed from the vectors themselves. So a score never depends on the kind, only whether a document
is found does: ``recall`` measures that.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ranklens.data.encoder import Vectors
from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.extras import require
from ranklens.retrieval.shards import Shards

Kind = Literal["flat", "hnsw", "ivfpq", "sq8", "rabitq"]
KINDS: tuple[Kind, ...] = ("flat", "hnsw", "ivfpq", "sq8", "rabitq")
_SEED = 1234
_PER_LIST = 39
"""Vectors that Faiss's k-means wants for a centroid."""
_LEAST = 16 * _PER_LIST
"""A product quantiser has 16 centroids."""
_TRAINED_ON = 256
"""Vectors for each list that training takes at most."""
_QUERIES = 256
"""Queries searched at a time: bounds what their candidates take."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a kind is made for so many vectors of such a length, and how it is searched."""

    factory: str
    wider: int
    """Candidates for each document that is asked for."""
    lists: int = 0
    probes: int = 0


def recipe(kind: Kind, count: int, dimension: int) -> Recipe:
    """Return how ``kind`` is made; UsageError where there are too few vectors to train it."""
    if kind == "hnsw":
        return Recipe("HNSW32,Flat", 1)
    if kind == "sq8":
        return Recipe("SQ8", 2)
    if kind == "rabitq":
        return Recipe(f"RR{dimension},RaBitQ", 10)
    if count < _LEAST:
        raise UsageError(
            f"ivfpq has to be trained on at least {_LEAST} vectors; there are {count}: take flat"
        )
    lists = max(1, min(int(4 * count**0.5), count // _PER_LIST))
    parts = max(m for m in range(1, max(1, dimension // 4) + 1) if dimension % m == 0)
    return Recipe(f"IVF{lists},PQ{parts}x4fs", 10, lists, min(lists, max(64, lists // 8)))


def check_kind(kind: str) -> Kind:
    """Return a kind's name; UsageError for an unknown one, with the list."""
    for known in KINDS:
        if kind == known:
            return known
    raise UsageError(f"unknown Faiss index {kind!r}; choose {', '.join(KINDS)}")


def index_file(folder: Path, kind: Kind) -> Path:
    """Return where the index of a kind lies, beside the vectors."""
    return folder / f"index-{kind}.faiss"


def write_index(folder: Path, kind: Kind) -> None:
    """Train and fill an index over the vectors in a folder and write it; flat needs none.

    Training is on a sample drawn with a fixed seed; a graph depends on the order in which threads
    come to it, so two are not the same to the byte.

    Raises InvalidInputError where it cannot be written.
    """
    if kind == "flat":
        return
    faiss = _faiss()
    shards = Shards(folder)
    chosen = recipe(kind, len(shards), shards.dimension)
    index = faiss.index_factory(shards.dimension, chosen.factory, faiss.METRIC_INNER_PRODUCT)
    if kind == "hnsw":
        index.hnsw.efConstruction = 200
    if not index.is_trained:
        index.train(shards.take(sample(len(shards), max(chosen.lists, 64) * _TRAINED_ON)))
    for _, part in shards.parts():
        index.add(np.ascontiguousarray(part))
    path = index_file(folder, kind)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        faiss.write_index(index, str(temporary))
        temporary.replace(path)
    except RuntimeError as error:
        raise InvalidInputError(f"cannot write {path}: {_said(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)


class VectorIndex:
    """An index that is open for search. ``where`` says what searches: the CPU or GPUs.

    Raises InvalidInputError for a file of ``kind`` that is damaged, or of other vectors.
    """

    def __init__(self, folder: Path, kind: Kind) -> None:
        self._faiss = _faiss()
        self._shards = Shards(folder)
        self._recipe: Recipe | None = None
        self._index: Any = None
        self.where = "cpu"
        if kind == "flat":
            gpus = self._faiss.get_num_gpus() if _has_gpus(self._faiss) else 0
            if gpus:
                self._index, self._recipe = self._on_gpus(), Recipe("Flat", 2)
                self.where = f"{gpus} GPUs, float16" if gpus > 1 else "GPU, float16"
        else:
            self._recipe = recipe(kind, len(self._shards), self._shards.dimension)
            self._index = self._read(index_file(folder, kind))
            if self._recipe.probes:
                self._faiss.extract_index_ivf(self._index).nprobe = self._recipe.probes

    def __len__(self) -> int:
        return len(self._shards)

    def search(self, queries: Vectors, k: int) -> list[tuple[NDArray[np.int64], Vectors]]:
        """Return rows and scores of up to ``k`` nearest vectors for each query, best first.

        ``queries`` are float32 of shape [queries, dimension]. An approximate index may find fewer
        than there are.
        """
        found = []
        for start in range(0, len(queries), _QUERIES):
            part = np.ascontiguousarray(queries[start : start + _QUERIES])
            for query, rows in zip(part, self._candidates(part, k), strict=True):
                rows = rows[rows >= 0]
                # Row by row: a matrix product rounds by how many rows there are.
                scores = np.einsum("rd,d->r", self._shards.take(rows), query)
                best = np.lexsort((rows, -scores))[:k]
                found.append((rows[best], scores[best]))
        return found

    def recall(self, queries: Vectors, depth: int = 10) -> float:
        """Return the share of the ``depth`` truly nearest vectors that is found for queries."""
        exact = self._exact(queries, min(depth, len(self)))
        found = [rows for rows, _ in self.search(queries, depth)]
        hits = sum(
            len({*one.tolist()} & {*truth.tolist()})
            for one, truth in zip(found, exact, strict=True)
        )
        return hits / exact.size

    def _read(self, file: Path) -> Any:
        wrong = f"{file} is damaged; remove it, and it is made anew of the vectors beside it"
        try:
            # Mapped: what a search does not touch is not read.
            index = self._faiss.read_index(str(file), self._faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise InvalidInputError(f"{wrong} ({_said(error)})") from None
        if (index.ntotal, index.d) != (len(self), self._shards.dimension):
            raise InvalidInputError(
                f"{wrong} (it has {index.ntotal} vectors of {index.d}, "
                f"these are {len(self)} of {self._shards.dimension})"
            )
        return index

    def _candidates(self, queries: Vectors, k: int) -> NDArray[np.int64]:
        if self._index is None or self._recipe is None:
            return self._exact(queries, min(k, len(self)))
        wanted = min(k * self._recipe.wider, len(self))
        if hasattr(self._index, "hnsw"):
            self._index.hnsw.efSearch = max(128, 2 * wanted)
        if self._recipe.probes:
            # Enough lists for the depth, whatever the usual number of them.
            needed = -(-2 * wanted * self._recipe.lists // len(self))
            inverted = self._faiss.extract_index_ivf(self._index)
            inverted.nprobe = min(self._recipe.lists, max(self._recipe.probes, needed))
        _, rows = self._index.search(queries, wanted)
        return np.asarray(rows, dtype=np.int64)

    def _exact(self, queries: Vectors, k: int) -> NDArray[np.int64]:
        heap = self._faiss.ResultHeap(len(queries), k, keep_max=True)
        for start, part in self._shards.parts():
            scores, rows = self._faiss.knn(
                queries,
                np.ascontiguousarray(part),
                min(k, len(part)),
                metric=self._faiss.METRIC_INNER_PRODUCT,
            )
            heap.add_result(scores, rows + start)
        heap.finalize()
        return np.asarray(heap.I, dtype=np.int64)

    def _on_gpus(self) -> Any:
        """Return all vectors in half precision, spread over the GPUs."""
        whole = self._faiss.IndexFlatIP(self._shards.dimension)
        for _, part in self._shards.parts():
            whole.add(np.ascontiguousarray(part))
        options = self._faiss.GpuMultipleClonerOptions()
        options.useFloat16 = True
        options.shard = True
        return self._faiss.index_cpu_to_all_gpus(whole, co=options)


def sample(count: int, wanted: int) -> NDArray[np.int64]:
    """Return up to ``wanted`` rows of ``count``, drawn with a fixed seed, in order."""
    if wanted >= count:
        return np.arange(count, dtype=np.int64)
    drawn = np.random.default_rng(_SEED).choice(count, wanted, replace=False)
    return np.sort(drawn).astype(np.int64)


def _said(error: RuntimeError) -> str:
    """Return what Faiss says is wrong, without where in its sources."""
    return str(error).rpartition("Error: ")[2].strip()


def _has_gpus(faiss: Any) -> bool:
    return hasattr(faiss, "StandardGpuResources")


def _faiss() -> Any:
    require("dense", "torch", "faiss")
    # Both bring an OpenMP of their own, and the other order has crashed on some systems.
    import_module("torch")
    return import_module("faiss")
