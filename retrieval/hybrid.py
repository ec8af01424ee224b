"""Hybrid retrieval: several retrievers search, and their runs become one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ranklens.data.errors import UsageError
from ranklens.data.records import Document, Query
from ranklens.data.runs import Run
from ranklens.retrieval.base import Retriever
from ranklens.retrieval.fusion import Fusion

_LEAST = 1000
"""Documents that each retriever is asked for at least: what fusing can bring up from below."""


class HybridRetriever:
    """The documents of several retrievers, fused.

    ``parts`` are retrievers by name; an index folder has a folder of that name for each. Weights
    of the fusion go by their order. Each is asked for 1,000 documents, or ``k`` where that is
    more.

    Raises UsageError for less than two parts and for another number of weights.
    """

    def __init__(self, parts: Mapping[str, Retriever], fusion: Fusion | None = None) -> None:
        self.parts, self.fusion = dict(parts), fusion or Fusion()
        if len(self.parts) < 2:
            raise UsageError("a hybrid takes at least two retrievers")
        self.resumes = any(part.resumes for part in self.parts.values())
        weights = self.fusion.weights
        if weights is not None and len(weights) != len(self.parts):
            raise UsageError(
                f"{self.fusion} has {len(weights)} weights for {len(self.parts)} retrievers "
                f"({', '.join(self.parts)})"
            )

    def index(self, documents: Iterable[Document]) -> None:
        """Index documents with every part; an iterator is held for that."""
        for part, given in self._shared(documents):
            part.index(given)

    def settings(self) -> dict[str, Any]:
        """Return what the parts' indexes depend on; fusing belongs to the search."""
        parts = {name: part.settings() for name, part in self.parts.items()}
        return {"retriever": "hybrid", **parts}

    def build(self, documents: Iterable[Document], folder: Path) -> dict[str, Any]:
        """Write the index of every part into a folder of its own."""
        facts: dict[str, Any] = {}
        names = iter(self.parts)
        for part, given in self._shared(documents):
            name = next(names)
            of_part = folder / name
            of_part.mkdir(exist_ok=True)
            facts[name] = part.build(given, of_part)
        return {"documents": max(fact["documents"] for fact in facts.values()), **facts}

    def open(self, folder: Path) -> None:
        """Use the indexes that ``build`` wrote."""
        for name, part in self.parts.items():
            part.open(folder / name)

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return the first ``k`` documents of the fused run; raises as the parts do."""
        runs = self.search_parts(queries, max(k, _LEAST))
        fused = self.fusion.fuse(list(runs.values()), k)
        # A query that finds nothing has its place too.
        return Run({query.id: fused.get(query.id, ()) for query in queries}, tag="hybrid")

    def search_parts(self, queries: Sequence[Query], k: int) -> dict[str, Run]:
        """Return each part's run by its name, before fusing."""
        return {name: part.search(queries, k) for name, part in self.parts.items()}

    def close(self) -> None:
        """Close every part, the others too where one fails."""
        with contextlib.ExitStack() as stack:
            for part in self.parts.values():
                stack.callback(part.close)

    def _shared(
        self, documents: Iterable[Document]
    ) -> Iterator[tuple[Retriever, Iterable[Document]]]:
        given = list(documents) if isinstance(documents, Iterator) else documents
        for part in self.parts.values():
            yield part, given
